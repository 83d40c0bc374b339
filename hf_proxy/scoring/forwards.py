"""One forward pass over every aligned trace, shared among the processes, whatever their number."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn

from hf_proxy.models.access import (
    head_width,
    input_device,
    input_rows,
    prefers_padding_free,
    scoring_mode,
    unwrapped,
)
from hf_proxy.models.adapters import check_adapter
from hf_proxy.models.batching import TokenBatch, group_by_tokens, token_batch
from hf_proxy.models.labels import LabelLogprobs, label_logprobs
from hf_proxy.models.logits import measure_logit_transform
from hf_proxy.models.meshes import readers
from hf_proxy.models.parallel import (
    FirstError,
    Processes,
    balanced_shards,
    is_main,
    merge_over_ranks,
    require_equal,
    stop_together,
)
from hf_proxy.models.positions import length_kinds, window_of
from hf_proxy.models.probes import require_causal, why_not_packed
from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.progress import Progress
from hf_proxy.records.scores import Setting
from hf_proxy.records.storage import fingerprint
from hf_proxy.scoring.statistics import Labels


class Rows(NamedTuple):
    """What every rank knows of all rows before the first forward, sorted by `example_id`."""

    example_id: list[str]
    number: np.ndarray  # row of the aligned dataset
    length: np.ndarray  # tokens
    num_labels: np.ndarray
    num_bytes: np.ndarray
    parts: dict[str, Any]

    def setting(self, divisor: str) -> Setting:
        """What a score of these rows must share with another to be compared."""
        return Setting(self.parts | {"divisor": divisor})

    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the labels of each row begin and end among all labels."""
        end = np.cumsum(self.num_labels)
        return end - self.num_labels, end


def read_rows(aligned: Dataset) -> Rows:
    """Sizes of all rows, without reading their ids into Python."""
    if not len(aligned):
        raise InputError.at("there are no aligned traces", remedy="score at least one")
    example_ids: list[str] = []
    settings: set[str] = set()
    lengths, starts, num_bytes = [], [], []
    columns = ["example_id", "input_ids", "label_start", "num_bytes", "setting_parts"]
    for table in aligned.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        example_ids += table["example_id"].to_pylist()
        settings |= set(table["setting_parts"].to_pylist())
        lengths.append(pc.list_value_length(table["input_ids"]).to_numpy())
        starts.append(table["label_start"].to_numpy())
        num_bytes.append(table["num_bytes"].to_numpy())
    check_unique_ids(example_ids)
    if len(settings) > 1:
        first, second = sorted(settings)[:2]
        differing = Setting(json.loads(first)).differing(Setting(json.loads(second)))
        raise InputError.at(
            f"rows of different settings stand together: {'; '.join(differing)}",
            remedy="align all of them in one call",
            field="setting_parts",
        )
    (setting,) = settings
    parts = json.loads(setting)
    if parts["num_traces"] != len(example_ids):
        # a selection is a trace set of its own, named by what it was selected from
        parts["traces"] = fingerprint([parts["traces"], sorted(example_ids)])
        parts["num_traces"] = len(example_ids)
    order = np.array(sorted(range(len(example_ids)), key=example_ids.__getitem__))
    length = np.concatenate(lengths)[order].astype(np.int64)
    return Rows(
        example_id=[example_ids[i] for i in order],
        number=order,
        length=length,
        num_labels=length - np.concatenate(starts)[order],
        num_bytes=np.concatenate(num_bytes)[order].astype(np.int64),
        parts=parts,
    )


def read_labels(
    model: nn.Module,
    aligned: Dataset,
    rows: Rows,
    accelerator: Processes,
    tokens_per_batch: int,
    padding_free: bool | None,
) -> Labels:
    """Every label of every row after one forward pass, the same on every rank.

    Each rank writes its own rows into a table of zeros; their sum is the table of all.
    """
    start, end = rows.blocks()
    table = np.zeros((len(Labels._fields) - 1, end[-1]))
    with stop_together(accelerator):
        for place, part in _forwards(
            model, aligned, rows, accelerator, tokens_per_batch, padding_free
        ):
            table[:, start[place] : end[place]] = part
    columns = dict(zip(Labels._fields[:-1], merge_over_ranks(table, accelerator), strict=True))
    return Labels(**columns, vocab_size=head_width(unwrapped(model)))


def _forwards(
    model: nn.Module,
    aligned: Dataset,
    rows: Rows,
    accelerator: Processes,
    tokens_per_batch: int,
    padding_free: bool | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """This rank's share of the rows, scored: place in `rows`, and `[columns of Labels, n]`.

    Every rank runs the same number of forwards, because where weights are sharded each is a
    collective; who has fewer batches reads a line of two tokens. So a row that cannot be scored
    is told of after the last forward. Ranks that hold parts of one layer read the same rows, and
    one of them gives the results.
    """
    require_equal(
        fingerprint([rows.example_id, rows.length.tolist(), rows.parts]),
        accelerator,
        what="the aligned traces",
        remedy="give every rank the same file and settings",
    )
    lengths = rows.length.tolist()
    own = readers(unwrapped(model), accelerator)
    with scoring_mode(model) as bare:
        device = input_device(bare, accelerator)
        check_adapter(bare)
        transform = measure_logit_transform(bare, device=device)
        require_causal(bare, device=device, processes=accelerator)
        if padding_free or (padding_free is None and prefers_padding_free(bare)):
            line = max(tokens_per_batch, max(lengths))
            why_not = why_not_packed(bare, longest=line, device=device, processes=accelerator)
            if why_not and padding_free:
                raise InputError.at(why_not, remedy="score it with padding_free=False")
            padding_free = not why_not
        padding_free = bool(padding_free)
        _check_window(bare, rows)
        # the last token is only ever predicted
        kinds = length_kinds(bare, [length - 1 for length in lengths])
        shards = [
            [[shard[i] for i in group] for group in groups]
            for shard in balanced_shards(_costs(bare, rows), own.number)
            for groups in [
                group_by_tokens(
                    [lengths[i] for i in shard],
                    tokens_per_batch,
                    padding_free=padding_free,
                    kinds=[kinds[i] for i in shard],
                )
            ]
        ]
        num_forwards = max(map(len, shards))
        shard = shards[own.place]
        progress = Progress(
            sum(lengths[i] for group in shard for i in group),
            "Scoring",
            "tokens",
            is_shown=is_main(accelerator),
        )
        # Arrow, because the numpy format of datasets rounds float64 weights to float32
        tables = aligned.with_format("arrow")
        later = FirstError()
        with progress:
            for number in range(num_forwards):
                batch, content = IDLE, []
                if number < len(shard) and later.error is None:
                    with later:
                        places = shard[number]
                        content = [_arrays(tables[int(rows.number[place])]) for place in places]
                        batch = _batch_of(bare, rows, places, content, padding_free=padding_free)
                found = label_logprobs(bare, batch, transform, device=device)
                parts: list[tuple[int, np.ndarray]] = []
                if batch is not IDLE:
                    with later:
                        parts = _columns(rows, batch, content, found)
                        progress.update(sum(lengths[place] for place in batch.rows))
                if own.counts:
                    yield from parts
        if later.error is not None:
            raise later.error


# what a rank without rows of its own reads
IDLE = token_batch([], [[0, 0]], [1], padding_free=False)


def _batch_of(
    model: Any,
    rows: Rows,
    places: list[int],
    content: list[tuple[np.ndarray, ...]],
    *,
    padding_free: bool,
) -> TokenBatch:
    batch = token_batch(
        places,
        [input_ids for input_ids, _ in content],
        [int(rows.length[place] - rows.num_labels[place]) for place in places],
        padding_free=padding_free,
    )
    _check_vocabulary(model, batch, rows)
    return batch


def _columns(
    rows: Rows, batch: TokenBatch, content: list[tuple[np.ndarray, ...]], found: LabelLogprobs
) -> list[tuple[int, np.ndarray]]:
    """Of each row of a batch its place and `[columns of Labels, n]`."""
    of_rows = zip(*(part.split(batch.num_labels) for part in found), strict=True)
    columns = []
    for i, (place, parts) in enumerate(zip(batch.rows, of_rows, strict=True)):
        _check_finite(parts[0], rows.example_id[place])
        given = (column[-batch.num_labels[i] :] for column in content[i])
        columns.append((place, np.stack([*given, *(part.numpy() for part in parts)])))
    return columns


def _costs(model: Any, rows: Rows) -> list[int]:
    """What each row is to cost, the same on every rank: multiplications, by the hidden size.

    A layer has about 12 hidden_size^2 weights and attends to all tokens; the head meets labels.
    """
    config = model.config.get_text_config()
    hidden = getattr(config, "hidden_size", None) or 1
    layers = getattr(config, "num_hidden_layers", None) or 1
    body_R = layers * (12 * hidden * rows.length + 2 * rows.length**2)
    return (body_R + head_width(model) * rows.num_labels).tolist()


def _arrays(table: pa.Table) -> tuple[np.ndarray, ...]:
    """`input_ids` and `label_weight` of a table of one row."""
    return tuple(table[name][0].values.to_numpy() for name in ("input_ids", "label_weight"))


def _check_window(model: Any, rows: Rows) -> None:
    window = window_of(model)
    longest = int(np.argmax(rows.length))
    # the last token is only ever predicted, so the window holds one token less than the row
    if window is not None and rows.length[longest] - 1 > window:
        raise InputError.at(
            f"context and trace have {rows.length[longest]} tokens, the model's window is {window}",
            remedy=f"align with max_length={window + 1}, too_long='drop'",
            row=rows.example_id[longest],
        )


def _check_vocabulary(model: Any, batch: Any, rows: Rows) -> None:
    for ids, size in ((batch.input_ids_BT, input_rows(model)), (batch.label_N, head_width(model))):
        if (largest := int(ids.max())) >= size:
            raise InputError.at(
                f"token id {largest} is beyond the model's vocabulary of {size}",
                remedy="align with this model's own tokenizer",
                row=rows.example_id[batch.rows[0]],
                field="input_ids",
            )


def _check_finite(logprob_N: torch.Tensor, example_id: str) -> None:
    if not torch.isfinite(logprob_N).all():
        place = int((~torch.isfinite(logprob_N)).nonzero()[0])
        raise InputError.at(
            f"the model's logprob of label {place} is {logprob_N[place].item()}",
            remedy="its weights or its precision are broken: try float32, or look for NaN in them",
            row=example_id,
        )
