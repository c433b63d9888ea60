from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedsplit.flower_internals import task_identity


@pytest.fixture(autouse=True)
def _as_a_server_task() -> Iterator[None]:
    with task_identity():
        yield
