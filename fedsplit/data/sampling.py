"""Which rows to take: class-balanced subsets and held-out parts, as row numbers.

Every choice is seeded, and independent of the clients: it is made before the images are shared out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def _shuffled_ranks(labels: Sequence[int] | Rows, seed: int) -> tuple[Rows, Rows]:
    """Return the rows in a seeded order, and the rank of each among its class in that order."""
    values = np.asarray(labels, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(values))
    ranks = np.empty_like(order)
    for label in np.unique(values):
        of_class = np.flatnonzero(values[order] == label)
        ranks[of_class] = np.arange(len(of_class))
    return order, ranks


def balanced_subset(labels: Sequence[int] | Rows, count: int, seed: int) -> Rows:
    """Return `count` rows with as equal numbers of every class as there are images for.

    A smaller subset of the same labels and seed is part of a larger one. Rows are ascending.
    """
    order, ranks = _shuffled_ranks(labels, seed)
    return np.sort(order[np.argsort(ranks, kind="stable")][:count])


def hold_out(labels: Sequence[int] | Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return the rows that stay and the rows held out, both ascending.

    Of a class of n images floor(n * fraction) are held out; where that leaves nothing held out
    in all, one image is, so long as one stays.
    """
    values = np.asarray(labels, dtype=np.int64)
    order, ranks = _shuffled_ranks(values, seed)
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    held = ranks < np.floor(counts[inverse] * fraction)
    if not held.any() and len(values) > 1:
        held[0] = True
    return np.sort(order[~held]), np.sort(order[held])
