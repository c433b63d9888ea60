from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedsplit.inprocess import _task_identity


@pytest.fixture(autouse=True)
def _as_a_server_task() -> Iterator[None]:
    with _task_identity():
        yield
