"""Trainings and scores for the jobs of helpers/sharded.py, on the assets of the recipes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, ParallelismConfig, PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from helpers.models import make_model
from helpers.selective import make_rows
from helpers.sharded import ASSETS, assert_sharded, state_of_rank, whole_state_dict
from helpers.trainers import Careless, lines_of
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from transformers.distributed import DistributedConfig
from trl import SFTConfig, SFTTrainer

from hf_proxy import (
    SelectiveSFTConfig,
    SelectiveSFTTrainer,
    align_traces,
    load_traces,
    score_traces,
)
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.models.access import is_sharded, num_parameters, unwrapped, weights_checksum
from hf_proxy.models.meshes import readers, refuse_same_rows
from hf_proxy.scoring import forwards


def prompt_rows(count: int) -> Dataset:
    """Prompts and completions, all different."""
    rows = []
    for i in range(count):
        prompt = f"Start with {i}. Double it. Add {i % 7}. What do you get?"
        completion = f" {i} times 2 is {2 * i}. {2 * i} plus {i % 7} is {2 * i + i % 7}."
        rows.append({"prompt": prompt, "completion": completion})
    return Dataset.from_list(rows)


def lora() -> Any:
    """A small adapter."""
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def sft_trainer(out: Path, *, with_lora: bool = False, callbacks=(), **arguments) -> SFTTrainer:
    """Four steps, evaluated and saved every two."""
    settings = {
        "output_dir": str(out / "run"),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "bf16": False,
        "gradient_checkpointing": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 5,
    } | arguments
    args = SFTConfig(**settings)  # before the model: ZeRO-3 shards it while it loads
    set_seed(7)
    rows = prompt_rows(40)
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(ASSETS / "expert", dtype=torch.float32),
        args=args,
        train_dataset=rows.select(range(36)),
        eval_dataset=rows.select(range(36, 40)),
        processing_class=AutoTokenizer.from_pretrained(ASSETS / "expert"),
        peft_config=lora() if with_lora else None,
        callbacks=list(callbacks),
    )


def sft(
    out: Path,
    setup: str,
    *,
    watch: str = "",
    num_traces: int = 5,
    resume: str | None = None,
    resume_step: int = 0,
    **arguments: Any,
) -> dict[str, Any]:
    """One training.

    Args:
        watch: "score", with ProxyScoreCallback; "careless", with a callback that draws a number.
        resume, resume_step: name of the job that is gone on with, in its folder, and from where.
        arguments: of `sft_trainer`.

    Returns:
        `state_of_rank`, what `assert_sharded` gives, the `scores` that were logged, and step and
        value of each line of `predictions.jsonl`; with a best model `after`, the score of what was
        loaded at the end.
    """
    if resume is not None:
        out = out.with_name(resume)
    callbacks = [Careless()] if watch == "careless" else []
    trainer = sft_trainer(out, callbacks=callbacks, **arguments)
    traces = load_traces(str(ASSETS / "traces.parquet")).select(range(num_traces))
    if watch == "score":
        ProxyScoreCallback(traces, tokens_per_batch=256).attach(trainer)
    set_seed(11)
    last = f"{out}/run/checkpoint-{resume_step}"
    trainer.train(resume_from_checkpoint=last if resume is not None else None)
    found = assert_sharded(trainer, setup) | state_of_rank(trainer)
    key, rows = "eval_rbridge_nll", trainer.state.log_history
    best = trainer.state.best_model_checkpoint
    found |= {"scores": [row[key] for row in rows if key in row], "best": best and Path(best).name}
    if watch == "score":
        found["lines"] = [[line["step"], line["value"]] for line in lines_of(out)]
    if trainer.args.load_best_model_at_end:
        aligned = align_traces(traces, trainer.processing_class)
        state, size = PartialState(), {"tokens_per_batch": 256}
        found["after"] = score_traces(trainer.model, aligned, accelerator=state, **size).value
    return found


def selective(
    out: Path, setup: str, *, with_lora: bool = False, with_amateur: bool = False, **arguments: Any
) -> dict[str, Any]:
    """One SGD step on soft targets made up; the whole weights go to `out`/whole.pt."""
    settings = {
        "output_dir": str(out / "run"),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "bf16": False,
        "activation_checkpointing": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
    } | arguments
    args = SelectiveSFTConfig(**settings)
    set_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    amateur = AutoModelForCausalLM.from_pretrained(ASSETS / "amateur") if with_amateur else None
    trainer = SelectiveSFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(ASSETS / "expert", dtype=torch.float32),
        args=args,
        train_dataset=make_rows(tokenizer, num_rows=8),
        processing_class=tokenizer,
        peft_config=lora() if with_lora else None,
        amateur=amateur,
        amateur_processing_class=tokenizer if with_amateur else None,
    )
    trainer.train()
    (row,) = (row for row in trainer.state.log_history if "loss" in row)
    found = {key: row[key] for key in ("loss", "num_kept", "kept_accuracy")}
    whole = whole_state_dict(trainer)
    if whole:
        out.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.contiguous() for name, value in whole.items()}, out / "whole.safetensors"
        )
    return found | (assert_sharded(trainer, setup) if setup else {})


def prepared(setup: str, **arguments: Any) -> tuple[Any, Any, Any]:
    """Model of an accelerator, as trained, with aligned traces: accelerator, model, rows."""
    accelerator = Accelerator(**arguments)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "expert", dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"] = 1, 1
        config["gradient_clipping"] = 1.0
    model, optimizer = accelerator.prepare(model, optimizer)
    assert setup in ("ddp", "zero2") or is_sharded(unwrapped(model))
    traces = load_traces(str(ASSETS / "traces.parquet")).select(range(9))
    return accelerator, model, align_traces(traces, tokenizer)


def raised(work: Callable[[], Any]) -> str:
    """What it raised, "" for nothing."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def one_bad_row(out: Path, setup: str) -> dict[str, Any]:
    """A row that cannot be scored, on one rank, between two forwards of sharded weights."""
    accelerator, model, aligned = prepared(setup)
    longest = max(range(9), key=lambda i: len(aligned[i]["input_ids"]))

    def score(rows: Dataset) -> float:
        return score_traces(model, rows, accelerator=PartialState(), tokens_per_batch=64).value

    def spoilt(row: dict, i: int) -> dict:
        ids = row["input_ids"]
        return row | {"input_ids": [*ids[:-1], 399_999 if i == longest else ids[-1]]}

    found = {"id": raised(lambda: score(aligned.map(spoilt, with_indices=True)))}
    check = forwards._check_finite

    def one_nan(logprob_N: torch.Tensor, example_id: str) -> None:
        bad = example_id == aligned[longest]["example_id"]
        check(torch.full_like(logprob_N, float("nan")) if bad else logprob_N, example_id)

    forwards._check_finite = one_nan
    try:
        found["nan"] = raised(lambda: score(aligned))
    finally:
        forwards._check_finite = check
    return found | {"then": score(aligned), "row": aligned[longest]["example_id"]}


def checksums(out: Path, setup: str, **arguments: Any) -> dict[str, Any]:
    """Of the same weights before and after a forward, and of others."""
    accelerator, model, _ = prepared(setup, **arguments)
    state, bare = PartialState(), unwrapped(model)
    same = [weights_checksum(model, state)]
    with torch.no_grad():
        model(input_ids=torch.arange(8)[None])
    same.append(weights_checksum(model, state))
    found = {"same": same, "facts": [is_sharded(bare), num_parameters(bare)]}
    with torch.no_grad():
        for parameter in model.parameters():
            getattr(parameter, "ds_tensor", parameter).mul_(1.5)
    found["moved"] = weights_checksum(model, state)
    return found


def tensor_parallel(out: Path, setup: str) -> dict[str, Any]:
    """Scored where two ranks hold the halves of each layer, and 4 ranks two such pairs."""
    state = PartialState()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    aligned = align_traces(load_traces(str(ASSETS / "traces.parquet")).select(range(9)), tokenizer)
    mesh = init_device_mesh("cpu", (state.num_processes // 2, 2), mesh_dim_names=("dp", "tp"))

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(ASSETS / "expert", dtype=torch.float32)

    def by_hand(own_mesh: Any) -> Any:
        model = load()
        plan = {"q_proj": ColwiseParallel(), "k_proj": ColwiseParallel()}
        plan |= {"v_proj": ColwiseParallel(), "o_proj": RowwiseParallel()}
        for layer in model.model.layers:
            parallelize_module(layer.self_attn, own_mesh, plan)
        return model

    model = by_hand(mesh["tp"])
    found: dict[str, Any] = {
        "whole": score_traces(load(), aligned).value,
        "parallel": score_traces(model, aligned, accelerator=state, tokens_per_batch=128).value,
        "checksums": [weights_checksum(load()), weights_checksum(model, state)],
        "readers": readers(model, state),
    }
    if state.num_processes == 2:
        config = DistributedConfig(tp_plan="auto", tp_size=2)
        own = AutoModelForCausalLM.from_pretrained(
            ASSETS / "expert", dtype=torch.float32, distributed_config=config
        )
        found["transformers"] = score_traces(own, aligned, accelerator=state).value
        found["unnamed"] = readers(by_hand(init_device_mesh("cpu", (2,))), state)
    odd = by_hand(init_device_mesh("cpu", (state.num_processes,), mesh_dim_names=("rows",)))
    found["odd"] = raised(lambda: score_traces(odd, aligned, accelerator=state))
    found["dealt"] = raised(lambda: refuse_same_rows(model, state, "mining"))
    return found


def context_parallel(out: Path, setup: str) -> dict[str, Any]:
    """Where two ranks hold the halves of each row."""
    accelerator = Accelerator(parallelism_config=ParallelismConfig(cp_size=2))
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    aligned = align_traces(load_traces(str(ASSETS / "traces.parquet")).select(range(9)), tokenizer)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "amateur", dtype=torch.float32)
    return {
        who: raised(lambda state=state: score_traces(model, aligned, accelerator=state))
        for who, state in (("accelerator", accelerator), ("state", PartialState()))
    }


class Lost(TrainerCallback):
    """Rank 1 raises: after a step, or in a forward of scoring, where memory may run out."""

    def __init__(self, where: str, file: Path):
        self.where, self.file = where, file

    def fail(self, *_: Any) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(repr(time.time()))
        raise KeyError("lost here")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if PartialState().process_index != 1:
            return
        if self.where == "step":
            self.fail()
        unwrapped(model).model.layers[1].register_forward_pre_hook(self.fail)


def failing(out: Path, setup: str, *, where: str) -> dict[str, Any]:
    """A training whose rank 1 stops; when, stands in `out`/raised."""
    options = {"max_steps": 2, "eval_steps": 1, "save_strategy": "no"}
    trainer = sft_trainer(out, callbacks=[Lost(where, out / "raised")], **options)
    traces = load_traces(str(ASSETS / "traces.parquet")).select(range(5))
    ProxyScoreCallback(traces, tokens_per_batch=64).attach(trainer)
    trainer.train()
    return {}


def peak(out: Path, setup: str) -> dict[str, Any]:
    """Device memory that scoring adds, for a model of 24 layers; only where there is a device."""
    accelerator = Accelerator()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    changes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24}
    bare = make_model("llama", len(tokenizer), **changes)
    whole = sum(p.numel() * p.element_size() for p in bare.parameters())
    model, _ = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=0.1))
    traces = load_traces(str(ASSETS / "traces.parquet")).select(range(9))
    aligned = align_traces(traces, tokenizer)
    device = torch.get_device_module(accelerator.device)
    device.empty_cache()
    device.reset_peak_memory_stats()
    before = device.memory_allocated()
    score_traces(model, aligned, accelerator=accelerator, tokens_per_batch=256)
    found = device.max_memory_allocated() - before
    return {"peak_bytes": found, "whole_bytes": whole}
