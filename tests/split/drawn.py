"""Sizes that hypothesis draws: K participants, n_k examples each, in any batches and epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.split.reference import Data
from tests.split.toys import BATCH_SIZE, batches_of

few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class Shards(NamedTuple):
    """Examples of each participant, the batch size, and the epochs of a round."""

    examples: dict[int, int]
    batch_size: int
    epochs: int

    def data(self, server_round: int, shape: Sequence[int] = (6,)) -> Data:
        """Return the batches of each participant: all epochs, each with its smaller last batch."""
        data = {}
        for k, n in sorted(self.examples.items()):
            whole, rest = divmod(n, self.batch_size)
            sizes = [self.batch_size] * whole + [rest] * (rest > 0)
            data[k] = batches_of(100 * server_round + k, *sizes * self.epochs, shape=shape)
        return data


def shards(participants: tuple[int, int] = (1, 4), largest: int = 12) -> st.SearchStrategy[Shards]:
    """Draw a number of participants in a range, each with at most `largest` examples."""
    fewest, most = participants
    examples = st.dictionaries(
        st.integers(0, 9), st.integers(1, largest), min_size=fewest, max_size=most
    )
    return st.builds(Shards, examples, st.integers(1, BATCH_SIZE), st.integers(1, 2))
