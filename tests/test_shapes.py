"""Shapes that signatures promise: checked while the tests run (pyproject.toml), not elsewhere."""

import dataclasses
import random

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError

from hf_proxy import contrast
from hf_proxy.models.logits import kept_logits
from hf_proxy.training.loss import selective_loss


def test_a_wrong_shape_is_refused():
    step, token, prob = torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([0.5, 0.5])
    logits_MV = torch.zeros(1, 4)
    assert selective_loss(logits_MV, step, token, prob).shape == (1,)
    found = contrast(torch.eye(3), torch.zeros(3, 3))
    calls = [
        lambda: selective_loss(logits_MV[0], step, token, prob),
        lambda: selective_loss(logits_MV, step, token[:1], prob),
        lambda: selective_loss(logits_MV, step.int(), token, prob),
        lambda: dataclasses.replace(found, kl_N=found.kl_N[:2]),
        lambda: dataclasses.replace(found, keep_N=found.kl_N),
        lambda: kept_logits(torch.nn.Identity(), {}, torch.tensor([[0]])),
    ]
    for call in calls:
        with pytest.raises(TypeCheckError):
            call()


def test_the_checker_leaves_the_random_streams_alone():
    """Else the tests that training is bit for bit the same would fail for its sake."""
    before = random.getstate()
    found = contrast(torch.eye(9), torch.zeros(9, 9))  # three blocks, put together
    assert len(found.kl_N) == 9
    selective_loss(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    assert random.getstate() == before

    @beartype
    def looks_into(numbers: list[int]) -> None:
        """What the modules that take lists would do."""

    looks_into([1, 2, 3])
    assert random.getstate() != before
