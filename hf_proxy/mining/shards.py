"""One file of a mined set."""

from pathlib import Path

from datasets import Dataset

from hf_proxy.mining.soft_targets import check_soft_targets
from hf_proxy.records.rows import SOFT_TARGET_FEATURES
from hf_proxy.records.storage import is_unchanged, read_arrow


def shard_path(folder: Path, batch: int) -> Path:
    """The file of a batch of the set in `folder`."""
    return folder / "shards" / f"{batch:06d}.arrow"


def read_shard(path: Path) -> Dataset:
    """The rows of one file of a mined set, mapped.

    Raises:
        InputError: it is not as it was written; where an older version left no checksum, its
            columns do not fit each other.
    """
    rows = read_arrow(path, SOFT_TARGET_FEATURES, remedy="delete it and run the same mining again")
    if is_unchanged(path) is None:
        for row in rows:
            check_soft_targets(row, source=path)
    return rows
