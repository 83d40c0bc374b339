"""Folders of the sets that a callback mines, one for each measurement."""

import shutil
from pathlib import Path

from hf_proxy.mining.mining_record import MiningRecord
from hf_proxy.records.record import read_record
from hf_proxy.records.run_folders import step_of


def set_folder(folder: Path, step: int | None, checksum: int) -> Path:
    """Where the set of some weights goes.

    Other weights at the same step (the best ones, after training) get a folder of their own.

    Args:
        step: None where it is not known.
        checksum: of the weights.
    """
    if step is None:
        return folder / f"evaluated-{checksum:010x}"
    own = folder / f"step-{step:08d}"
    if (own / "mining.json").exists():
        if read_record(own / "mining.json", MiningRecord).expert[0] != checksum:
            return own.with_name(f"{own.name}-{checksum:010x}")
    return own


def tidy_sets(folder: Path, step: int) -> None:
    """A fresh run leaves an earlier one's sets aside; a resumed one drops the later ones.

    Args:
        step: at which the run begins.
    """
    if not folder.exists():
        return
    if step == 0:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(aside)
        return
    for path in folder.iterdir():
        found = step_of(path)
        if found is not None and found > step:
            shutil.rmtree(path)
