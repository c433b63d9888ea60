"""Choose rows: class-balanced subsets and held-out parts, as row numbers.

Every choice is seeded. None depends on the clients, as the images are divided among them later.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def _shuffled_ranks(labels: Sequence[int] | Rows, seed: int) -> tuple[Rows, Rows]:
    """Return the rows in a seeded order, and each row's rank within its class in that order."""
    values = np.asarray(labels, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(values))
    ranks = np.empty_like(order)
    for label in np.unique(values):
        of_class = np.flatnonzero(values[order] == label)
        ranks[of_class] = np.arange(len(of_class))
    return order, ranks


def balanced_subset(labels: Sequence[int] | Rows, count: int, seed: int) -> Rows:
    """Return `count` rows, with the numbers of the classes as equal as the images allow.

    With the same labels and seed, a smaller subset is part of a larger one. Rows are ascending.
    """
    order, ranks = _shuffled_ranks(labels, seed)
    return np.sort(order[np.argsort(ranks, kind="stable")][:count])


def hold_out(labels: Sequence[int] | Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return the rows that stay and the rows that are held out, both ascending.

    Of a class of n images, floor(n * fraction) are held out, but at least one if n > 1. A single
    image of a class stays.
    """
    values = np.asarray(labels, dtype=np.int64)
    order, ranks = _shuffled_ranks(values, seed)
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    share = np.maximum(np.floor(counts * fraction), 1)[inverse]
    held = ranks < np.where(counts[inverse] > 1, share, 0)
    return np.sort(order[~held]), np.sort(order[held])
