"""The matrix of sharded set-ups: what is trained in each, and what is said of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import merge_fsdp_weights
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.sharded import ASSETS, differences, job, launch, results
from hf_proxy import align_traces, load_traces, score_traces

NUM_TRACES = 5


@dataclass(frozen=True)
class Case:
    """One way to train: without and with ProxyScoreCallback, and gone on with from its middle.

    Attributes:
        options: of `sharded_jobs.sft`.
        resumes: whether it is also gone on with from step 2.
    """

    name: str
    setup: str
    ranks: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    resumes: bool = False

    @property
    def key(self) -> str:
        """Name of its folders."""
        return self.name.replace(" ", "-").replace(",", "")

    @property
    def decides(self) -> bool:
        """Whether our number chooses the best model: there is no such run without it."""
        return "metric_for_best_model" in self.options

    def jobs(self) -> list[dict[str, Any]]:
        """For `launch`."""
        own = {"num_traces": NUM_TRACES} | self.options
        work = (self.setup, "sharded_jobs:sft")
        found = [job(f"{self.key}-scored", *work, watch="score", **own)]
        if not self.decides:
            found.append(job(f"{self.key}-plain", *work, **own))
        if self.resumes:
            more = {"watch": "score", "resume": f"{self.key}-scored", "resume_step": 2}
            found.append(job(f"{self.key}-resumed", *work, **own | more))
        return found


BEST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_rbridge_nll",
    "greater_is_better": False,
}
CASES = (
    Case("FSDP2", "fsdp2", resumes=True),
    Case("FSDP2, LoRA", "fsdp2", options={"with_lora": True}),
    Case("FSDP2, bf16", "fsdp2", options={"bf16": True}),
    Case("FSDP2, checkpointing", "fsdp2", options={"activation_checkpointing": True}),
    Case("FSDP2, accumulation", "fsdp2", options={"gradient_accumulation_steps": 2}),
    Case("FSDP2, best model", "fsdp2", options=BEST),
    # torch's own optimizer state does not come back here, with the callback or without
    Case("FSDP1", "fsdp1"),
    Case("ZeRO-2", "zero2", resumes=True),
    Case("ZeRO-3", "zero3", resumes=True),
    Case("ZeRO-3, LoRA", "zero3", options={"with_lora": True}),
    # of three traces one rank has none
    Case("FSDP2, an idle rank", "fsdp2", 4, {"num_traces": 3}),
    Case("HSDP 2x2", "hsdp", 4, resumes=True),
)


@dataclass(frozen=True)
class Update:
    """One step of `SelectiveSFTTrainer`, on eight rows in all, whatever the ranks."""

    setup: str
    options: dict[str, Any] = field(default_factory=dict)
    ranks: int = 2

    @property
    def key(self) -> str:
        """Name of its folder."""
        return "-".join(["update", self.setup, *map(str, self.options)])

    @property
    def batch(self) -> dict[str, Any]:
        """What makes eight rows of a step."""
        steps = self.options.get("gradient_accumulation_steps", 1)
        return {"per_device_train_batch_size": 8 // (self.ranks * steps)}

    def jobs(self) -> list[dict[str, Any]]:
        """For `launch`."""
        return [job(self.key, self.setup, "sharded_jobs:selective", **self.options | self.batch)]


UPDATES = (
    Update("fsdp2"),
    Update("fsdp2", {"gradient_accumulation_steps": 2}),
    Update("fsdp2", {"sft_weight": 0.3}),
    Update("fsdp2", {"padding_free": True}),
    Update("fsdp2", {"with_lora": True}),
    Update("zero2"),
    Update("zero2", {"with_amateur": True, "divergence_beta": 0.05}),
    Update("zero3"),
    Update("zero3", {"sft_weight": 0.3, "gradient_accumulation_steps": 2}),
    Update("hsdp", ranks=4),
)


# what is started: the file that `accelerate launch` is given, and the set-ups of its jobs
STARTS = (
    ("fsdp2", 2, ("fsdp2", "fsdp1")),
    ("zero3", 2, ("zero3", "zero2")),
    ("hsdp", 4, ("hsdp", "fsdp2")),
)


def launch_all(
    folder: Path, more: Mapping[int, list[dict[str, Any]]]
) -> dict[tuple[int, str], Path]:
    """Run the matrix; the folder of each number of processes and set-up.

    Args:
        more: jobs beside it, by number of processes.
    """
    found = {}
    for name, ranks, setups in STARTS:
        own = folder / f"{name}-{ranks}"
        every = (*CASES, *UPDATES)
        chosen = [case for case in every if case.ranks == ranks and case.setup in setups]
        jobs = [job for case in chosen for job in case.jobs()] + more.get(ranks, [])
        if not (own / "plan.json").exists():
            launch(own, name, ranks, jobs)
        found |= {(ranks, setup): own for setup in setups}
    return found


def neutral(folder: Path, case: Case) -> list[str]:
    """What differs between the trainings with and without the callback, by rank."""
    plain, scored = (results(folder, f"{case.key}-{n}", case.ranks) for n in ("plain", "scored"))
    return differences(plain, scored)


def resumed(folder: Path, case: Case) -> list[str]:
    """What differs between the training that was gone on with and the one that was not stopped."""
    whole, later = (results(folder, f"{case.key}-{n}", case.ranks) for n in ("scored", "resumed"))
    for rank in (*whole, *later):
        # the last row is of the run's own steps; TRL counts tokens from 0 again
        rank["log"] = [
            {key: value for key, value in row.items() if "num_tokens" not in key}
            for row in rank["log"][:-1]
        ]
    found = differences(whole, later)
    return found + [name for name in ("scores", "lines") if whole[0][name] != later[0][name]]


def score_gap(folder: Path, case: Case) -> float:
    """The largest relative difference of a logged score from that of its checkpoint."""
    scores = results(folder, f"{case.key}-scored", case.ranks)[0]["scores"]
    num_traces = case.options.get("num_traces", NUM_TRACES)
    traces = load_traces(str(ASSETS / "traces.parquet")).select(range(num_traces))
    aligned = align_traces(traces, AutoTokenizer.from_pretrained(ASSETS / "expert"))
    gaps = []
    for step, logged in zip(range(0, 2 * len(scores), 2), scores, strict=True):
        path = folder / f"{case.key}-scored" / "run" / f"checkpoint-{step}"
        # FSDP2 gathers in the precision in which it computes
        dtype = torch.bfloat16 if case.options.get("bf16") else torch.float32
        model = _load(ASSETS / "expert" if step == 0 else path, dtype)
        gaps.append(abs(score_traces(model, aligned).value / logged - 1))
    return max(gaps)


def _load(path: Path, dtype: torch.dtype) -> Any:
    """The model of a folder; shards of FSDP are merged first, as `hf-proxy score` says."""
    if (shards := path / "pytorch_model_fsdp_0").is_dir():
        merge_fsdp_weights(str(shards), str(path))
        (path / "config.json").write_bytes((ASSETS / "expert" / "config.json").read_bytes())
    kind = AutoModelForCausalLM
    if (path / "adapter_config.json").exists():
        kind = AutoPeftModelForCausalLM
    return kind.from_pretrained(path, dtype=dtype)


def one_process(out: Path, update: Update) -> None:
    """The same update by this process alone, in one batch."""
    import sharded_jobs

    options = update.options | {"gradient_accumulation_steps": 1}
    sharded_jobs.selective(out, "", use_cpu=True, per_device_train_batch_size=8, **options)


def update_gap(folder: Path, update: Update, reference: Path) -> float:
    """The largest difference of a weight from that of one process's update.

    Raises:
        AssertionError: the update moved nothing.
    """
    found, one = (
        load_file(path / "whole.safetensors") for path in (folder / update.key, reference)
    )
    before = load_file(ASSETS / "expert" / "model.safetensors")
    if "with_lora" not in update.options:
        assert max(_largest(one[name] - before[name]) for name in before) > 1e-3
    assert set(found) == set(one)
    return max(_largest(found[name] - one[name]) for name in one)


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.abs().max())
