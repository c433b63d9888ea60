"""Fixtures of the tests that start Flower's own processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.flower import Flower


@pytest.fixture(scope="session")
def flower() -> Iterator[Flower]:
    """Give a SuperLink of the tests' own; `Flower.run` is ``flwr run`` on it."""
    with Flower() as started:
        yield started
