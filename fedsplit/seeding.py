"""Derive many named, independent generators from one seed.

A name is any tuple of strings and integers, for example ``("batches", server_round,
partition_id)``. Only `seeded_init` touches torch's global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

process_lock = RLock()
"""Held while a block uses what a process has only once: torch's global generator and default
device, and what transformers keeps in modules. One lock serves all of it, because such blocks
nest in either order: a model is made under a seed, and making one may draw."""


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on every name and on their order.

    Parameters
    ----------
    seed : int
        The run's seed.
    *names : str | int
        The purpose of the numbers; ``"1"`` and ``1`` are different names.
    """
    material = repr((int(seed), *names)).encode()
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a new CPU generator for one purpose (see `derive_seed`)."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def unchanged_generator() -> Iterator[None]:
    """Run a block that draws from torch's global generator, and restore the generator's state.

    Such blocks run one at a time in a process: a thread that enters one waits until no other
    thread is in one. They may be nested.
    """
    with process_lock, torch.random.fork_rng(devices=[]):
        yield


@contextmanager
def seeded_init(seed: int, *names: str | int) -> Iterator[None]:
    """Run a block, such as a model's constructor, under a seed, and restore the global state.

    Module constructors draw from torch's global generator, which cannot be passed to them; this is
    the one place that seeds it. Blocks of several threads run one after another (see
    `unchanged_generator`), so each draws the same numbers as it would alone. That does not hold
    for a thread that draws from the global generator outside such a block.
    """
    with unchanged_generator():
        torch.manual_seed(derive_seed(seed, *names))
        yield
