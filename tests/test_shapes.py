"""Shapes that signatures promise: checked while the tests run (pyproject.toml), not elsewhere."""

import dataclasses

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from hf_proxy import contrast
from hf_proxy.models.logits import kept_logits
from hf_proxy.traces.alignment import min_max, token_weights
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
        lambda: token_weights({"trace": "ab"}, np.zeros((2, 3), np.int64), unit="byte"),
        lambda: min_max(np.zeros(2, np.float32), 0.0, 1.0),
    ]
    for call in calls:
        with pytest.raises(TypeCheckError):
            call()
