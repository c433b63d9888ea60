"""Thread pools have two threads unless they are told otherwise: a machine of very few cores.

Python imports this first in every process that has the folder on its PYTHONPATH.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

_init = ThreadPoolExecutor.__init__


def _narrow(
    self: ThreadPoolExecutor,
    max_workers: int | None = None,
    *args: Any,  # noqa: ANN401 - what else a pool takes
    **named: Any,  # noqa: ANN401
) -> None:
    _init(self, max_workers or 2, *args, **named)


ThreadPoolExecutor.__init__ = _narrow  # type: ignore[method-assign]
