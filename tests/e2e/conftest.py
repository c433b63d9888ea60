"""Fixtures of the tests that start Flower's own processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.flower import Flower


@pytest.fixture(scope="session")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """Give a SuperLink of the tests' own; `Flower.run` is ``flwr run`` on it.

    Of xdist's processes, only one may come here (see tests/conftest.py); a second one fails.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        (tmp_path_factory.getbasetemp().parent / "flower").touch(exist_ok=False)
    with Flower() as started:
        yield started
