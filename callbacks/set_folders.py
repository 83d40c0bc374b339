"""Folders of the sets that a callback mines, one for each measurement."""

import shutil
from pathlib import Path

from hf_proxy.records.run_folders import step_of


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
