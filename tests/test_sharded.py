"""Sharded training through SFTTrainer, on gloo: FSDP2 and ZeRO-3 here, all set-ups in long form."""

import pytest
from helpers.sharded import differences, job, results, run_jobs

pytestmark = pytest.mark.distributed
SETUPS = ("fsdp2", "zero3")


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """Of all trainings on two processes; one start for all."""
    folder = tmp_path_factory.mktemp("sharded")
    jobs = []
    for setup in SETUPS:
        jobs.append(job(f"{setup}-plain", setup, "sharded_jobs:sft", max_steps=2))
        jobs.append(job(f"{setup}-scored", setup, "sharded_jobs:sft", max_steps=2, watch="score"))
    run_jobs(shared, folder, 2, jobs)
    return folder


@pytest.mark.parametrize("setup", SETUPS)
def test_scoring_leaves_a_sharded_training_bit_for_bit_as_it_was(folder, setup):
    plain, scored = (results(folder, f"{setup}-{name}", 2) for name in ("plain", "scored"))
    assert differences(plain, scored) == []
    assert [rank["share"] for rank in scored] == pytest.approx([0.5, 0.5], abs=0.01)
    assert scored[0]["scores"] == scored[1]["scores"] and len(scored[0]["scores"]) == 2
