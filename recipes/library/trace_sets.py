"""How the commands that make trace sets write them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def save_traces(traces: Dataset, config: Any, counts: dict, **facts: Any) -> None:
    """A trace set in the config's `output_dir`, with its provenance."""
    from hf_proxy.records.storage import save_dataset
    from hf_proxy.traces.checks import traces_fingerprint

    content = {
        "parameters": dataclasses.asdict(config),
        "counts": counts,
        "fingerprint": traces_fingerprint(traces),
    }
    save_dataset(traces, config.output_dir, content | facts, overwrite=config.overwrite)
