"""One seed becomes many named, independent generators.

Nothing here reads or writes torch's global generator. A name is any tuple of strings and
integers, for example ``(seed, "batches", server_round, partition_id)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on every name and on their order.

    Parameters
    ----------
    seed : int
        The run's seed.
    *names : str | int
        What the numbers are for; ``"1"`` and ``1`` are different names.
    """
    material = repr((int(seed), *names)).encode()
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator of its own for this purpose (see `derive_seed`)."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded_init(seed: int, *names: str | int) -> Iterator[None]:
    """Run a block, such as a model's constructor, under a seed, and restore the global state.

    Module constructors draw from torch's global generator, which cannot be passed in; so this
    is the one place that touches it. Not for use by concurrent threads.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, *names))
        yield
