"""Batches: every row once, within the budget, little padding, labels where they belong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_proxy.models.batching import LEAST_FILL, LEAST_TOKENS, group_by_tokens, token_batch


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(2, 900), min_size=1), st.integers(1, 5000), st.booleans())
def test_groups_hold_every_row_once_within_the_budget(lengths, budget, padding_free):
    groups = group_by_tokens(lengths, budget, padding_free=padding_free)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        inside = [lengths[index] for index in group]
        cost = sum(inside) if padding_free else max(inside) * len(inside)
        assert len(group) == 1 or cost <= budget
        # beyond the tokens that make a forward worthwhile, no row is much shorter than the longest
        late = inside[1 + LEAST_TOKENS // max(inside) :]
        assert padding_free or all(length >= LEAST_FILL * max(inside) for length in late)
    flat = [lengths[index] for group in groups for index in group]
    assert flat == sorted(lengths, reverse=True)


@pytest.mark.parametrize("padding_free", [False, True])
def test_labels_stand_one_behind_their_logits(padding_free):
    rows = [[10, 11, 12, 13, 14], [20, 21, 22]]
    batch = token_batch([7, 4], rows, [3, 1], padding_free=padding_free)
    assert batch.label_N.tolist() == [13, 14, 21, 22]
    assert batch.input_ids_BT.flatten()[batch.index_N].tolist() == [12, 13, 20, 21]
    assert batch.num_labels == [2, 2] and batch.rows == [7, 4]
    if padding_free:
        assert batch.input_ids_BT.tolist() == [[10, 11, 12, 13, 20, 21]]
        assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3, 0, 1]]
    else:
        # padded with the row's own last input token, which nothing before it can see
        assert batch.input_ids_BT.tolist() == [[10, 11, 12, 13], [20, 21, 21, 21]]
        assert batch.position_ids_BT is None


def test_read_only_arrays_are_taken():
    ids = np.array([1, 2, 3], dtype=np.int32)
    ids.flags.writeable = False
    assert token_batch([0], [ids], [1], padding_free=False).label_N.tolist() == [2, 3]
