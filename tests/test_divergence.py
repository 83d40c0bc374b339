"""The contrast of two models' logits: the paper's formula, to the last digit."""

import math

import pytest
import torch
from helpers import divergence_reference as reference
from helpers.memory import LargestTensor
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_proxy import contrast
from hf_proxy.mining.divergence import Contrast

# expert, amateur, KL, target
VECTORS = {
    "selected": (
        [0.50, 0.25, 0.12, 0.09, 0.04],
        [0.20, 0.40, 0.05, 0.05, 0.30],
        0.418005,
        {0: 0.452489, 1: 0.113122, 2: 0.434389},
    ),
    "one token": (
        [0.90, 0.05, 0.03, 0.015, 0.005],
        [0.30, 0.40, 0.15, 0.10, 0.05],
        0.796526,
        {0: 1},
    ),
    "flip": (
        [0.60, 0.25, 0.10, 0.04, 0.01],
        [0.55, 0.02, 0.20, 0.13, 0.10],
        0.544152,
        {0: 0.080268, 1: 0.919732},
    ),
    "rejected": ([0.70, 0.15, 0.08, 0.05, 0.02], [0.60, 0.20, 0.10, 0.06, 0.04], 0.023923, None),
    "inclusive": (
        [0.50, 0.10, 0.20, 0.15, 0.05],
        [0.10, 0.30, 0.20, 0.20, 0.20],
        0.582391,
        {0: 0.705882, 1: 0.047059, 2: 0.141176, 3: 0.105882},
    ),
}


def logits(p, dtype=torch.float64, shift=0.0):
    return torch.tensor([p], dtype=dtype).log() + shift


def targets(found: Contrast):
    """Step to {token: probability}."""
    bounds = found.offset.tolist()
    pairs = list(zip(found.token_id.tolist(), found.prob.tolist(), strict=True))
    return [dict(pairs[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_five_vectors(name, dtype):
    expert, amateur, kl, target = VECTORS[name]
    found = contrast(logits(expert, dtype, 3.0), logits(amateur, dtype, -7.0))
    assert found.kl_N.dtype == dtype
    assert round(found.kl_N.item(), 6) == pytest.approx(
        kl, abs=1.01e-6 if dtype.itemsize < 8 else 0
    )
    assert found.keep_N.tolist() == [target is not None]
    assert targets(found) == ([] if target is None else [pytest.approx(target, abs=6e-7)])


@given(st.data())
@settings(deadline=None)
def test_any_step_against_the_plain_reference(data):
    size = data.draw(st.integers(2, 12))
    numbers = st.lists(st.floats(-6, 6), min_size=size, max_size=size)
    rows = data.draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9))
    alpha = data.draw(st.sampled_from([0.1, 0.2, 0.4, 1.0]))
    beta = data.draw(st.sampled_from([0.0, 0.4, 2.0]))
    temperature = data.draw(st.sampled_from([1.0, 0.5, 3.0]))
    expert, amateur = (torch.tensor([r[i] for r in rows], dtype=torch.float64) for i in (0, 1))
    found = contrast(
        expert,
        amateur,
        divergence_beta=beta,
        plausibility_alpha=alpha,
        contrast_temperature=temperature,
    )
    expected = []
    for n, (a, b) in enumerate(rows):
        p, q = reference.softmax(a), reference.softmax(b)
        assert found.kl_N[n].item() == pytest.approx(reference.kl(p, q), abs=1e-12)
        assert found.expert_entropy_N[n].item() == pytest.approx(reference.entropy(p), abs=1e-12)
        assert found.amateur_entropy_N[n].item() == pytest.approx(reference.entropy(q), abs=1e-12)
        assert found.support_size_N[n] == len(reference.target(p, q, alpha))
        assert found.top1_agree_N[n].item() == (a.index(max(a)) == b.index(max(b)))
        if found.keep_N[n]:
            expected.append(reference.target(p, q, alpha, temperature))
            assert reference.kl(p, q) >= beta - 1e-12
        else:
            assert reference.kl(p, q) < beta + 1e-12
    assert [set(step) for step in targets(found)] == [set(step) for step in expected]
    for mine, theirs in zip(targets(found), expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("name", VECTORS)
def test_the_published_form(name):
    """1e-12 is added before each logarithm, as the script does: no matter where p is large."""
    expert, amateur, _, _ = VECTORS[name]
    found = contrast(logits(expert), logits(amateur), parity="official", divergence_beta=0.0)
    assert found.kl_N.item() == pytest.approx(reference.official_kl(expert, amateur), abs=1e-14)
    tiny = [1 - 1e-30, 1e-30]
    rare = contrast(logits([0.5, 0.5]), logits(tiny), parity="official", divergence_beta=0.0)
    ratios = [math.log(0.5 + 1e-12), math.log(0.5 + 1e-12) - math.log(1e-12)]  # capped
    assert list(targets(rare)[0].values()) == pytest.approx(reference.softmax(ratios), abs=1e-10)
    plain = contrast(logits([0.5, 0.5]), logits(tiny), divergence_beta=0.0)
    assert targets(plain)[0][1] == pytest.approx(1.0, abs=1e-25)


def test_beta_zero_keeps_all_and_alpha_one_keeps_the_best():
    torch.manual_seed(0)
    expert, amateur = torch.randn(2, 7, 40, dtype=torch.float64)
    everything = contrast(expert, amateur, divergence_beta=0.0)
    assert everything.keep_N.all() and len(everything.offset) == 8
    best = contrast(expert, amateur, divergence_beta=0.0, plausibility_alpha=1.0)
    assert best.token_id.tolist() == expert.argmax(-1).tolist()
    assert best.prob.tolist() == [1.0] * 7
    nothing = contrast(expert, expert)
    assert not nothing.keep_N.any() and nothing.offset.tolist() == [0]
    assert nothing.kl_N.abs().max() < 1e-12 and nothing.top1_agree_N.all()


def test_a_uniform_amateur_gives_the_expert_itself():
    expert = VECTORS["selected"][0]
    found = contrast(logits(expert), torch.zeros(1, 5, dtype=torch.float64))
    assert targets(contrast(logits(expert), torch.zeros(1, 5), divergence_beta=0.0))[0] == (
        pytest.approx({0: 0.574713, 1: 0.287356, 2: 0.137931}, abs=1e-6)
    )
    assert found.amateur_entropy_N.item() == pytest.approx(math.log(5))


def test_the_wider_is_cut_before_the_softmax():
    torch.manual_seed(1)
    expert, amateur = torch.randn(2, 5, 30, dtype=torch.float64)
    padded = torch.cat([expert, torch.full((5, 6), 9.0, dtype=torch.float64)], dim=1)
    found, expected = contrast(padded, amateur), contrast(expert, amateur)
    assert torch.equal(found.kl_N, expected.kl_N) and torch.equal(found.prob, expected.prob)


def test_steps_do_not_see_each_other():
    """Any split of the rows gives the same numbers, to the last bit."""
    torch.manual_seed(2)
    expert, amateur = torch.randn(2, 23, 50)
    whole = contrast(expert, amateur)
    parts = [contrast(expert[i : i + 3], amateur[i : i + 3]) for i in range(0, 23, 3)]
    joined = Contrast.concatenate(parts)
    for name in ("keep_N", "top1_agree_N", "offset", "token_id"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    for name in ("kl_N", "prob", "expert_logprob", "amateur_logprob"):
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name), atol=2e-6, rtol=0)
    order = whole.token_id.tensor_split(whole.offset[1:-1])
    assert all((ids.diff() > 0).all() for ids in order)


def test_low_precision_is_read_in_fp32():
    torch.manual_seed(3)
    expert, amateur = (5 * torch.randn(2, 6, 500)).bfloat16()
    found = contrast(expert, amateur)
    exact = contrast(expert.double(), amateur.double())
    assert found.kl_N.dtype == torch.float32
    torch.testing.assert_close(found.kl_N.double(), exact.kl_N, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found.expert_entropy_N.double(), exact.expert_entropy_N, atol=1e-5, rtol=0
    )


def test_only_a_few_rows_are_widened_at_a_time():
    expert, amateur = torch.randn(2, 64, 1000).bfloat16()
    with LargestTensor() as watch:
        contrast(expert, amateur)
    assert watch.numel <= 4 * 1000


def test_no_steps_are_valid():
    found = contrast(torch.zeros(0, 5), torch.zeros(0, 5))
    assert found.offset.tolist() == [0] and not len(found.kl_N)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("whose", ["expert", "amateur"])
def test_a_logit_that_is_not_finite_is_named(value, whose):
    both = {"expert": torch.randn(9, 20), "amateur": torch.randn(9, 20)}
    both[whose][6, 3] = value
    with pytest.raises(ValueError, match=f"step 6: the {whose} has a logit that is not finite"):
        contrast(both["expert"], both["amateur"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"divergence_beta": -0.1}, "divergence_beta must be >= 0"),
        ({"divergence_beta": float("nan")}, "divergence_beta must be >= 0"),
        ({"plausibility_alpha": 0.0}, "plausibility_alpha must be in"),
        ({"contrast_temperature": 0.0}, "contrast_temperature must be > 0"),
        ({"parity": "paper"}, "parity must be None or 'official'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        contrast(torch.zeros(1, 3), torch.zeros(1, 3), **setting)
    with pytest.raises(ValueError, match="the expert has 2 steps, the amateur 1"):
        contrast(torch.zeros(2, 3), torch.zeros(1, 3))


def test_a_trainings_autocast_changes_nothing():
    """Dot products are on autocast's list of what it makes in half precision."""
    torch.manual_seed(4)
    expert, amateur = torch.randn(2, 6, 300)
    plain = contrast(expert, amateur)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.linalg.vecdot(expert, amateur).dtype == torch.bfloat16  # the trap is there
        inside = contrast(expert, amateur)
    assert torch.equal(inside.kl_N, plain.kl_N) and torch.equal(inside.prob, plain.prob)
