"""What `carry_chains.py` does in the world of one seed: its models, its problems, each training."""

import copy
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, set_seed

from hf_proxy import SelectiveSFTConfig, SelectiveSFTTrainer, foretell_gain, mine_soft_targets
from hf_proxy.callbacks import ContrastCallback
from hf_proxy.recipes.library.carry_chains import SOURCES, distinct_problems, problems
from hf_proxy.recipes.library.small_world import (
    CHAT_TEMPLATE,
    LONGEST_TRACE,
    make_model,
    pretrain,
    solve,
    train_tokenizer,
)

NUM_PROBLEMS, NUM_QUESTIONS = 1000, 400
BETAS = (0.4, 0.1)
CONTEXT = "{prompt}\n"  # what the models were trained on
EXPERT = {"width": 64, "num_steps": 1400, "learning_rate": 5e-3}
AMATEUR = {"width": 24, "num_steps": 500, "learning_rate": 6e-3}
TRAINING = {"num_steps": 60, "num_rows": 16, "learning_rate": 1e-4}
# amateur: how it differs from the normal one
AMATEURS: dict[str, dict[str, Any]] = {
    "normal": {},
    "half-trained": {"num_steps": AMATEUR["num_steps"] // 2},
    "other mixture": {"shares": dict.fromkeys(SOURCES, 0.95)},
    # one for all seeds
    "stronger": EXPERT | {"shares": {name: share / 2 for name, share in SOURCES.items()}},
}
REJECTION = {"select": "all", "target": "token", "only_correct": True, "temperature": 1.0}


@dataclass(frozen=True)
class World:
    """One seed: its models, made once and kept, and its problems."""

    seed: int
    folder: Path

    @cached_property
    def tokenizer(self) -> Any:
        rows = islice(problems(random.Random("tokenizer")), 2000)
        tokenizer = train_tokenizer([f"{row['prompt']}\n{row['trace']}" for row in rows])
        tokenizer.chat_template = CHAT_TEMPLATE
        return tokenizer

    def rows(self, part: str, source: str, number: int) -> list[dict[str, str]]:
        """Problems of one part, each once, named."""
        rng = random.Random(f"{self.seed}-{part}-{source}")
        rows = distinct_problems(rng, part, source, number)
        return [row | {"example_id": f"{part}-{i}"} for i, row in enumerate(rows)]

    @cached_property
    def expert(self) -> Any:
        return self.model("expert", **EXPERT)

    def amateur(self, kind: str) -> Any:
        seed = 99 if kind == "stronger" else self.seed
        return self.model(f"amateur, {kind}", seed=seed, **AMATEUR | AMATEURS[kind])

    def model(
        self,
        name: str,
        *,
        width: int,
        num_steps: int,
        learning_rate: float,
        shares: Mapping[str, float] = SOURCES,
        seed: int | None = None,
    ) -> Any:
        seed = self.seed if seed is None else seed
        place = self.folder / "models" / f"{seed} {name}"
        if not place.is_dir():
            set_seed(seed)
            model = make_model(self.tokenizer, width, 2)
            rng = random.Random(f"{seed}-{name}")
            pretrain(
                model,
                self.tokenizer,
                problems(rng, "train", shares),
                num_steps,
                batch_size=64,
                learning_rate=learning_rate,
                seed=seed,
                output_dir=self.folder / "unused",
            )
            write_whole(place, model.save_pretrained)
        return AutoModelForCausalLM.from_pretrained(place)


def write_whole(place: Path, write: Callable[[Path], Any]) -> None:
    """A folder that appears whole or not at all."""
    partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    if not place.is_dir():  # seeds may be measured in processes beside each other
        partial.rename(place)


def mined(world: World, source: str, amateur: Any, folder: Path, **own: Any) -> Dataset:
    """Soft targets of this seed's questions."""
    rows = Dataset.from_list(world.rows("mine", source, NUM_QUESTIONS))
    return mine_soft_targets(
        world.expert,
        amateur,
        rows.select_columns(["example_id", "prompt", "answer"]),
        processing_class=world.tokenizer,
        amateur_processing_class=world.tokenizer,
        output_dir=folder / "mined",
        context=CONTEXT,
        max_new_tokens=LONGEST_TRACE,
        batch_size=200,
        seed=world.seed,
        **own,
    )


def trained(
    world: World,
    rows: Dataset | None,
    folder: Path,
    *,
    num_rows: int = TRAINING["num_rows"],
    learning_rate: float = TRAINING["learning_rate"],
    **own: Any,
) -> tuple[Any, dict[str, Any]]:
    """A copy of the expert after so many steps on these rows, and what it learnt from."""
    if rows is not None and not any(map(len, rows["position"])):
        return world.expert, {"kept_tokens": 0}  # nothing to learn: it stays as it was
    args = SelectiveSFTConfig(
        str(folder / "training"),
        max_steps=TRAINING["num_steps"],
        per_device_train_batch_size=num_rows,
        learning_rate=learning_rate,
        weight_decay=0.0,
        lr_scheduler_type="linear",
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=world.seed,
    )
    trainer = SelectiveSFTTrainer(
        copy.deepcopy(world.expert),
        args,
        train_dataset=rows,
        processing_class=world.tokenizer,
        **own,
    )
    found = trainer.train()
    about = {"kept_tokens": int(found.metrics["train_num_kept"]), "rows_a_step": num_rows}
    return trainer.accelerator.unwrap_model(trainer.model), about


def lightreasoner(world: World, source: str, amateur: Any, folder: Path, **own: Any):
    return trained(world, mined(world, source, amateur, folder, **own), folder)


def lora(world: World, source: str, amateur: Any, folder: Path):
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = mined(world, source, amateur, folder)
    return trained(world, rows, folder, learning_rate=1e-3, peft_config=config)


def fed(world: World, source: str, amateur: Any, folder: Path, **own: Any):
    """As many questions as the set mined once, a third of them before each third of the steps."""
    rows = Dataset.from_list(world.rows("mine", source, NUM_QUESTIONS))
    feeder = ContrastCallback(
        amateur,
        rows.select_columns(["example_id", "prompt"]),
        num_prompts=NUM_QUESTIONS // 3,
        amateur_processing_class=world.tokenizer,
        feed=True,
        strategy="steps",
        steps=TRAINING["num_steps"] // 3,
        context=CONTEXT,
        max_new_tokens=LONGEST_TRACE,
        batch_size=200,
        seed=world.seed,
        **own,
    )
    return trained(world, None, folder, callbacks=[feeder])


def rejection(world: World, source: str, amateur: Any, folder: Path, kept_tokens: int = 0):
    """Own right answers, sampled; with `kept_tokens` about so many tokens in all."""
    rows = mined(world, source, amateur, folder, **REJECTION)
    if not kept_tokens or not len(rows):
        return trained(world, rows, folder)
    length = sum(map(len, rows["kl"])) / len(rows)
    number = max(1, round(kept_tokens / TRAINING["num_steps"] / length))
    return trained(world, rows, folder, num_rows=number)


def continued(world: World, source: str, amateur: Any, folder: Path):
    """Further documents of this source, as it writes them."""
    model, rng = copy.deepcopy(world.expert), random.Random(f"{world.seed}-more-{source}")
    pretrain(
        model,
        world.tokenizer,
        problems(rng, "mine", {source: SOURCES[source]}),
        TRAINING["num_steps"],
        batch_size=TRAINING["num_rows"],
        learning_rate=TRAINING["learning_rate"],
        seed=world.seed,
        output_dir=folder / "training",
        warmup_steps=0,
    )
    return model, {"rows_a_step": TRAINING["num_rows"]}


def right(world: World, model: Any, tests: list[dict[str, str]]) -> str:
    """Of each problem in order, whether the greedy answer is right."""
    return "".join("01"[correct] for correct in solve(model, world.tokenizer, tests)[1])


def foretold(world: World, source: str, amateur: Any) -> list[dict[str, Any]]:
    """The forecast of each beta, on problems of its own."""
    found = foretell_gain(
        world.expert,
        amateur,
        world.rows("foretell", source, NUM_PROBLEMS),
        processing_class=world.tokenizer,
        amateur_processing_class=world.tokenizer,
        divergence_beta=BETAS,
        context=CONTEXT,
        max_new_tokens=LONGEST_TRACE,
        batch_size=250,
    )
    names = "divergence_beta gain low high p verdict amateur_accuracy expert_accuracy".split()
    return [{name: getattr(one, name) for name in names} for one in found.settings]
