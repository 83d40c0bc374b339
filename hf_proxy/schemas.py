"""Rows, types and conventions that every other module shares.

Positions. A position is the index of the token being predicted; its logits are read at position -
1.

Shapes. A tensor's name ends in its axes: B rows, T tokens in a row, N labels, C labels in one
chunk, D hidden, V vocabulary. Counts are `num_`, sums end in `_sum`; `nll` is positive and
`logprob` negative, both in nats.

Storage. Sets are Arrow files that hold numbers, ids, text and bytes only; they appear by rename,
whole or not at all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
from datasets import Dataset, Features, List, Value
from huggingface_hub import constants

ZERO_PROBABILITY_LOGPROB = -9999.0  # p = 0 as OpenAI writes it; exp of it is exactly 0.0
WEIGHTINGS = ("logprob", "none", "mask")
METRICS = ("value", "trace_nll", "bits_per_byte")  # of a ProxyScore, for which lower is better

TRACE_FEATURES = Features(
    {
        "example_id": Value("string"),
        "prompt": Value("string"),
        "trace": Value("string"),
        "weighting": Value("string"),
        "frontier_spans": List(List(Value("int32"), length=2)),  # [F, 2], UTF-8 bytes of `trace`
        "frontier_logprobs": List(Value("float64")),  # [F], nats
    }
)
ALIGNED_FEATURES = Features(
    {
        "example_id": Value("string"),
        "input_ids": List(Value("int32")),  # [T], context then trace
        "label_start": Value("int32"),  # every position from here on is a label
        "label_weight": List(Value("float64")),  # [T], 0 before label_start
        "label_spans": List(List(Value("int32"), length=2)),  # [n, 2], UTF-8 bytes of the trace
        "num_bytes": Value("int32"),
        "setting_parts": Value("string"),  # JSON, the same in every row
    }
)
LABEL_LOGPROB_FEATURES = Features(
    {
        "example_id": Value("string"),
        "label_logprobs": List(Value("float64")),  # [n], nats
        "label_spans": List(List(Value("int32"), length=2)),  # [n, 2], UTF-8 bytes of the trace
    }
)
SOFT_TARGET_FEATURES = Features(
    {
        "example_id": Value("string"),
        "input_ids": List(Value("int32")),  # [T], prompt then trajectory
        "prompt_length": Value("int32"),
        # for each of the G = T - prompt_length generated steps; nats
        "kl": List(Value("float32")),
        "top1_agree": List(Value("bool")),
        "expert_entropy": List(Value("float32")),
        "amateur_entropy": List(Value("float32")),
        "support_size": List(Value("int32")),  # plausible tokens
        # the M kept steps, targets in CSR form; the generated token is input_ids[position]
        "position": List(Value("int32")),  # [M]
        "offset": List(Value("int32")),  # [M + 1]
        "token_id": List(Value("int32")),  # [S], ascending within a step
        "prob": List(Value("float32")),
        "expert_logprob": List(Value("float32")),
        "amateur_logprob": List(Value("float32")),
    }
)


class InputError(ValueError):
    """Bad input, said in one line: where, what is wrong, and what to do about it."""

    @classmethod
    def at(cls, problem: str, *, remedy: str, source=None, row=None, field=None) -> "InputError":
        """The error that names its place.

        Args:
            problem: what was expected and what came.
            remedy: what the user can do.
            source, row, field: file or set, row (number or name) and field, as far as known.
        """
        named = (("", source), ("row ", row), ("field ", field))
        where = ", ".join(f"{word}{value}" for word, value in named if value is not None)
        line = f"{where}: {problem}; {remedy}" if where else f"{problem}; {remedy}"
        return cls(" ".join(line.split()))


def fingerprint(content: Any) -> str:
    """First 16 hex digits of the SHA-256 of `content` as canonical JSON: equal on every machine."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError.at(
            f"cannot be read ({error.strerror})", remedy="check path and rights", source=path
        ) from error


@dataclass(frozen=True)
class Setting:
    """What must be equal for two scores to be compared.

    `parts` maps traces, num_traces, tokenizer, context, unit, minmax_over, max_length and divisor
    to text or hashes of content; `hash` is the fingerprint of them all.
    """

    parts: dict[str, Any]

    @property
    def hash(self) -> str:
        return fingerprint(self.parts)

    def differing(self, other: "Setting") -> list[str]:
        """`name: mine != theirs` for each part that differs."""
        names = sorted(set(self.parts) | set(other.parts))
        return [
            f"{name}: {self.parts.get(name)!r} != {other.parts.get(name)!r}"
            for name in names
            if self.parts.get(name) != other.parts.get(name)
        ]

    def incomparable(self, other: "Setting", metric: str) -> tuple[list[str], str]:
        """Why a metric of two settings does not compare.

        `"bits_per_byte"` asks only that traces and context be equal, so it compares across
        tokenizers.

        Returns:
            the differing parts, empty if it compares, and a note on what to keep in mind.
        """
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {METRICS}, not {metric!r}")
        differing, note = self.differing(other), ""
        if metric == "bits_per_byte":
            differing = [part for part in differing if part.startswith(("traces:", "context:"))]
            if all(str(s.parts.get("context")).startswith("chat") for s in (self, other)):
                differing = [part for part in differing if not part.startswith("context:")]
                note = "each model saw the prompt in its own chat template"
        return differing, note


@dataclass(frozen=True)
class ProxyScore:
    """One model on one trace set. NLLs in nats per token; lower is better.

    Attributes:
        value: rBridge, mean over traces of `weighted_nll_sum / divisor`.
        low, high: 90 % interval of `value`, percentile bootstrap over traces; None for one trace.
        pooled: the same sums, divided once over all traces.
        trace_nll: R_phi, mean over traces of `nll_sum / num_labels`: rBridge with all weights 1.
        bits_per_byte: summed NLL over summed bytes, in bits; the one number that compares across
            tokenizers.
        top1_agreement: share of all labels that no other token outranks.
        mean_rank: mean over all labels of 1 + the number of tokens that outrank it.
        setting: what was scored and how; see `Setting`.
        step: training step of the weights, where known.
        rows: `Dataset`, per trace, sorted by `example_id`: `example_id, weighted_nll_sum, nll_sum,
            weight_sum, top1_sum, rank_sum, num_labels, num_bytes`.
    """

    value: float
    low: float | None
    high: float | None
    pooled: float
    trace_nll: float
    bits_per_byte: float
    top1_agreement: float
    mean_rank: float
    num_traces: int
    num_labels: int
    setting: Setting
    model_id: str | None
    num_parameters: int
    step: int | None
    rows: Dataset

    def scalars(self) -> dict[str, Any]:
        """Everything but `rows`, ready for JSON; the setting as its hash and parts."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        return values | {"setting": self.setting.hash, "setting_parts": self.setting.parts}

    def to_json(self) -> str:
        """All of it as JSON text; `from_json` gives back an equal score."""
        return json.dumps(self.scalars() | {"rows": self.rows.to_dict()}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ProxyScore":
        """The score that `to_json` wrote."""
        content = json.loads(text)
        content["setting"] = Setting(content.pop("setting_parts"))
        content["rows"] = Dataset.from_dict(content["rows"])
        return cls(**content)


def cache_dir() -> Path:
    """Where alignments and scores are kept between runs: `hf_proxy` in the Hugging Face home."""
    return Path(constants.HF_HOME) / "hf_proxy"


def partial_path(path: Path) -> Path:
    """A name beside `path` that no other process takes, on this host or another, to rename from."""
    return path.with_name(f".{path.name}.{uuid4().hex}")


def write_text(path: Path, text: str) -> None:
    """Write a file by rename, so that no reader ever sees half of it."""
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:  # its own line names the partial file, which no user knows
        raise InputError.at(
            f"cannot be written ({error.strerror})", remedy="check path and rights", source=path
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def cached_path(name: str) -> Path:
    """Place of a file in the cache of these versions; others may spell a text differently."""
    versions = [version(name) for name in ("hf-proxy", "transformers", "tokenizers")]
    return cache_dir() / fingerprint(versions) / name


def cached_dataset(key: str, features: Features, rows: Callable[[], Iterable[dict]]) -> Dataset:
    """The memory-mapped `Dataset` stored under `key`, built from `rows()` if it is not there.

    Rows are written as they come, so memory does not grow with the set. The file appears after
    `rows()` has ended, and is never taken away: several processes may build it at once.
    """
    path = cached_path(f"{key}.arrow")
    if not path.exists():
        write_arrow(path, features, rows())
    return Dataset.from_file(str(path))


def write_arrow(path: Path, features: Features, rows: Iterable[dict]) -> None:
    """Write rows as they come to an Arrow file that `Dataset.from_file` maps, by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    schema = features.arrow_schema
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            stream = iter(rows)
            while chunk := list(islice(stream, 1000)):
                writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=schema))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_dataset(dataset: Dataset, folder: str | Path, provenance: Mapping, *, overwrite=False):
    """`save_to_disk` with `provenance.json` inside, by rename.

    Raises:
        InputError: `folder` is there already, and `overwrite` is False or it is no saved set.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise InputError.at(
            "the folder is there already",
            remedy="name another output_dir, or pass --overwrite",
            source=folder,
        )
    # a slip of the keyboard must not cost anyone another folder
    if folder.exists() and not (folder / "dataset_info.json").exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise InputError.at(
                "something else than a saved set is here",
                remedy="name another output_dir; only sets are overwritten",
                source=folder,
            )
    partial = partial_path(folder)
    try:
        dataset.save_to_disk(str(partial))
        stamped = json.dumps(provenance_of(**provenance), indent=2, sort_keys=True)
        (partial / "provenance.json").write_text(stamped)
        if folder.exists():
            old = partial_path(folder)
            os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def provenance_of(**content: Any) -> dict[str, Any]:
    """`content` with the date and the versions of the libraries that decide the numbers."""
    libraries = ("hf-proxy", "torch", "transformers", "tokenizers", "datasets", "peft", "numpy")
    return content | {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in libraries},
    }
