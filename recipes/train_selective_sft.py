"""Train a model on its own soft targets (LightReasoner's second stage), resumably."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_proxy.recipes.library.running import Host, at_least, run
from hf_proxy.records.errors import InputError
from hf_proxy.training.fields import SelectiveFields

if TYPE_CHECKING:
    from trl import ModelConfig

    from hf_proxy.training.config import SelectiveSFTConfig

_CARD = """# {name}

`{model}`, tuned on its own soft targets with `hf-proxy train` (LightReasoner, arXiv 2510.07962):
the steps where it parts from `{amateur}`, and nothing else.

| | |
|---|---|
| prompts | {prompts} |
| rows, kept steps | {num_rows}, {num_kept} of {num_steps} |
| divergence_beta, plausibility_alpha | {divergence_beta}, {plausibility_alpha} |
| steps kept by, targets | {select}, {target} |
| optimizer steps, kept steps learnt | {steps}, {num_learnt} |
| learning rate | {learning_rate} |
| loss, first and last logged | {losses} |

What it reaches on a benchmark was not measured here. Versions and all settings: `provenance.json`.
"""
_OF_TARGETS = ("divergence_beta", "plausibility_alpha", "select", "target")


@dataclass(kw_only=True)
class TrainConfig:
    """Own fields of `hf-proxy train`, beside those of SelectiveSFTConfig and ModelConfig."""

    soft_targets: str = field(
        metadata={"help": "Folder that `hf-proxy contrast mine` wrote, of the same model."}
    )
    amateur: str | None = field(
        default=None,
        metadata={
            "help": "A weaker model with the same tokenizer. Given, the targets are made anew from "
            "these trajectories as it trains: select, target and the other settings of the "
            "contrast are read then."
        },
    )
    num_eval: int = field(
        default=0, metadata={"help": "Rows taken from the end of soft_targets for eval_loss."}
    )
    merge: bool = field(
        default=True,
        metadata={"help": "Save the model with its adapter merged too, under OUTPUT_DIR/merged."},
    )
    resume: bool = field(
        default=True, metadata={"help": "Go on from the last checkpoint in output_dir, if any."}
    )
    json: bool = field(default=False, metadata={"help": "End with one machine-readable line."})

    def __post_init__(self) -> None:
        at_least(self, 0, "num_eval")


def main(
    config: TrainConfig, arguments: SelectiveSFTConfig, model_config: ModelConfig
) -> dict[str, Any]:
    """Tune a model on its own soft targets, the steps where it parts from a weaker model.

    Reads:   soft targets that `hf-proxy contrast mine` wrote with this model as its expert.
    Writes:  checkpoints, adapter (under --use_peft) or model, model card and provenance.json in
             output_dir, the merged model with a card of its own in merged/ there. The same line
             again goes on.
    Example: hf-proxy train --model_name_or_path Qwen/Qwen2.5-Coder-1.5B-Instruct
             --soft_targets outputs/soft-targets --output_dir outputs/selective-sft
             --use_peft --lora_target_modules q_proj v_proj --max_steps 50 --use_cpu
    """
    from accelerate import PartialState

    from hf_proxy.mining.mining_record import read_facts
    from hf_proxy.mining.sets import load_soft_targets
    from hf_proxy.mining.settings import with_later
    from hf_proxy.models.parallel import stop_together
    from hf_proxy.recipes.library.run_records import RunFolder, train_to_the_end
    from hf_proxy.recipes.library.sharing import save_merged, save_tuned
    from hf_proxy.recipes.library.training import (
        adapter_config,
        check_evaluation,
        check_flags,
        hold_out,
        is_quantized,
        load_amateur,
        load_trainable,
    )
    from hf_proxy.training.trainer import SelectiveSFTTrainer

    check_flags(arguments, model_config)
    if config.merge and is_quantized(model_config):
        raise InputError.at(
            "an adapter merged into rounded weights would be another model",
            remedy="add --merge false",
            field="merge",
        )
    if arguments.only_correct:
        raise InputError.at(
            "a set of soft targets holds no answers",
            remedy="give it to `hf-proxy contrast mine`",
            field="only_correct",
        )
    processes = PartialState()
    check_evaluation(arguments, config.num_eval)
    folder = Path(str(arguments.output_dir))
    run_folder = RunFolder(folder, "train", (config, arguments, model_config))
    if (done := run_folder.begin()) is not None:
        return done
    with stop_together(processes):
        rows = load_soft_targets(config.soft_targets)
        source = Path(config.soft_targets)
        # read before the training, so that a set without them stops it at once
        mined, _, statistics = read_facts(source)
        train_rows, eval_rows = hold_out(rows, config.num_eval)
        model, tokenizer = load_trainable(
            model_config, trust_remote_code=arguments.trust_remote_code
        )
        amateur: tuple[Any, Any] = (None, None)
        if config.amateur is not None:
            amateur = load_amateur(
                config.amateur, model.dtype, trust_remote_code=arguments.trust_remote_code
            )
    trainer = SelectiveSFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        amateur=amateur[0],
        amateur_processing_class=amateur[1],
        peft_config=adapter_config(model_config),
    )
    result = train_to_the_end(trainer, folder, resume=config.resume)
    save_tuned(trainer)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    losses = losses or [result.training_loss]  # a run shorter than logging_steps logs none
    num_kept: Any = result.metrics.get("train_num_kept")
    facts = {
        "optimizer_steps": trainer.state.global_step,
        "losses": losses,
        "kept_steps_trained": num_kept,  # None: an older version began the run
        "train_runtime_s": result.metrics["train_runtime"],
    }
    with stop_together(processes):
        if trainer.is_world_process_zero():
            tuned: Any = trainer.model
            if config.merge and hasattr(tuned, "merge_and_unload"):
                merged = tuned.merge_and_unload()
                base = str(model_config.model_name_or_path)
                facts["merged_dtype"] = save_merged(
                    merged, tokenizer, folder / "merged", base, model_config.model_revision
                )
            settings = with_later(mined["settings"])
            amateur_name = config.amateur or mined["facts"].get("amateur", "a smaller model")
            if config.amateur is not None:  # the set gave the trajectories alone
                settings |= arguments.contrast_settings
            facts |= {"amateur": amateur_name, "targets": settings}
            history = trainer.state.log_history
            _write_record(mined, statistics, arguments, model_config, folder, facts, history)
            print(
                f"{facts['optimizer_steps']} steps, {_number(num_kept)} kept steps, loss "
                f"{_course(losses)}, {facts['train_runtime_s']:.0f} s, {folder}"
            )
    found = facts | {"output_dir": str(folder)}
    run_folder.end(found)
    return found


def _number(count: int | None) -> str:
    return "an unknown number of" if count is None else str(count)


def _course(losses: list[float]) -> str:
    """The first and the last loss; one alone is a mean, which shows no change."""
    if len(losses) == 1:
        return f"{losses[0]:.4f} (a mean of steps; a lower --logging_steps shows its course)"
    return f"{losses[0]:.4f} -> {losses[-1]:.4f}"


def _write_record(
    mined, statistics, arguments, model_config, folder: Path, facts: dict[str, Any], history: list
) -> None:
    """Provenance, and a card for the weights and for those that are merged."""
    from hf_proxy.recipes.library.sharing import shared_name, write_card
    from hf_proxy.records.storage import provenance_of, write_text

    stamp = provenance_of(
        soft_targets=mined,
        statistics=statistics,
        training=facts,
        log_history=history,
        arguments=arguments.to_dict(),
        model=dataclasses.asdict(model_config),
    )
    write_text(folder / "provenance.json", json.dumps(stamp, indent=2, default=str))
    base = str(model_config.model_name_or_path)
    model = shared_name(base)
    if model_config.model_revision != "main":
        model += f"@{model_config.model_revision}"
    text = _CARD.format(
        name=folder.name,
        model=model,
        amateur=shared_name(facts["amateur"]),
        prompts=shared_name(mined["facts"].get("prompts", "unnamed")),
        **{name: statistics[name] for name in ("num_rows", "num_kept", "num_steps")},
        **{n: facts["targets"][n] for n in _OF_TARGETS},
        steps=facts["optimizer_steps"],
        num_learnt=_number(facts["kept_steps_trained"]),
        learning_rate=arguments.learning_rate,
        losses=_course(facts["losses"]),
    )
    library = "peft" if model_config.use_peft else "transformers"
    write_card(folder, text, base, library=library)
    if "merged_dtype" in facts:
        merged = f"The adapter is merged into the weights; they are {facts['merged_dtype']}.\n"
        write_card(folder / "merged", f"{text.rstrip()}\n\n{merged}", base, library="transformers")


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy train`."""
    hosts = (
        Host("hf_proxy.training.config:SelectiveSFTConfig", added=SelectiveFields),
        Host("trl:ModelConfig"),
    )
    return run(TrainConfig, main, argv, prog="hf-proxy train", hosts=hosts)


if __name__ == "__main__":
    raise SystemExit(cli())
