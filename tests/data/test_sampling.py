from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsplit.data.sampling import balanced_subset, hold_out

labels_of_classes = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(labels_of_classes, st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_subset_is_as_balanced_as_can_be(labels: list[int], count: int, seed: int) -> None:
    rows = balanced_subset(labels, count, seed)
    assert len(set(rows.tolist())) == min(count, len(labels))
    taken = np.bincount(np.array(labels)[rows], minlength=5)
    there = np.bincount(labels, minlength=5)
    unfinished = taken[taken < there]
    if len(unfinished):
        assert taken.max() <= unfinished.min() + 1


def test_subset_is_seeded_and_nested() -> None:
    labels = [0, 1, 2] * 50
    small, large = (set(balanced_subset(labels, n, 3).tolist()) for n in (30, 90))
    assert small < large
    assert small != set(balanced_subset(labels, 30, 4).tolist())


@given(labels_of_classes, st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_hold_out_takes_a_sixth_of_each_class(labels: list[int], seed: int) -> None:
    stay, held = hold_out(labels, 1 / 6, seed)
    assert sorted([*stay.tolist(), *held.tolist()]) == list(range(len(labels)))
    counts = np.bincount(labels, minlength=5)
    expected = np.where(counts > 1, np.maximum(counts // 6, 1), 0)
    found = np.bincount(np.array(labels, dtype=np.int64)[held], minlength=5)
    assert found.tolist() == expected.tolist()
