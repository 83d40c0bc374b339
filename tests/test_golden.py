"""What the package computes stays what it was.

`golden/small.json` is made anew by

    python tests/golden/record.py tests/golden/small.json --small

and a number that moves is justified in the commit that moves it.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from golden.record import made_with, record

GOLDEN = json.loads((Path(__file__).parent / "golden" / "small.json").read_text())
TOLERANCE = 1e-6  # relative above 1, absolute below: float64 models, float32 where rows are stored


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where two records differ: floats beyond the tolerance, all else at all."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted(set(expected) | set(found))
        one_sided = [name for name in names if name not in expected or name not in found]
        lines = [f"{path}/{name}: stands on one side only" for name in one_sided]
        for name in names:
            if name not in one_sided:
                lines += differences(expected[name], found[name], f"{path}/{name}")
        return lines
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return [f"{path}: {len(expected)} entries, now {len(found)}"]
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{path}/{i}")]
    same = type(expected) is type(found) and expected == found
    if type(expected) is type(found) is float:
        same = abs(expected - found) <= TOLERANCE * max(1.0, abs(expected))
    return [] if same else [f"{path}: {expected!r}, now {found!r}"]


def test_every_number_is_what_it_was(tmp_path):
    # as JSON: a tuple is a list there
    found = json.loads(json.dumps(record(tmp_path, small=True), allow_nan=False))
    lines = differences(GOLDEN["recorded"], found)
    made = f"recorded with {GOLDEN['made_with']}, now {made_with()}"
    assert not lines, "\n".join([f"{len(lines)} differ; {made}", *lines[:20]])


def score(content):
    (model,) = content["scores"].values()
    return model["letter-tokens"]


def nudge(content, by):
    score(content)["value"] *= 1 + by


CHANGES = {
    "value": lambda c: nudge(c, 1e-5),
    "missing key": lambda c: score(c).pop("pooled"),
    "new key": lambda c: score(c).update(new=1),
    "id": lambda c: c["aligned"]["letter"]["input_ids"][0].__setitem__(0, 1),
    "shorter": lambda c: c["mined"]["greedy"]["rows"]["prob"][0].pop(),
    "int for float": lambda c: score(c).update(value=1),
    "true for 1": lambda c: score(c).update(num_traces=True),
    "text": lambda c: score(c).update(setting="0"),
    "none": lambda c: c["watched"]["log_history"][0].update(step=None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_comparison_sees_a_change(name):
    changed = copy.deepcopy(GOLDEN["recorded"])
    assert differences(GOLDEN["recorded"], changed) == []
    CHANGES[name](changed)
    assert len(differences(GOLDEN["recorded"], changed)) == 1


def test_the_last_digits_are_another_machines():
    changed = copy.deepcopy(GOLDEN["recorded"])
    nudge(changed, 1e-8)
    assert differences(GOLDEN["recorded"], changed) == []
