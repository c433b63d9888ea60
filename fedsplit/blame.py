"""Which of the user's own code an error is to be blamed on."""

from __future__ import annotations

import functools
import os
import sysconfig
import traceback
from pathlib import Path
from typing import Any


def users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the frame that raised an error, if it is neither in fedsplit nor called by it.

    What libraries raise counts as raised by the innermost line that called them.
    """
    ours, libraries = _prefixes()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(ours):
            return None
        if not frame.filename.startswith(libraries):
            return frame
    return None


def users_method(kind: type, *names: str) -> str | None:
    """Return the first of these methods of a class that the user has written, and where it is.

    Such as ``Mine.train_step (my_app/rules.py, line 12)``; None if all are fedsplit's.
    """
    for name in names:
        function: Any = getattr(kind, name, None)
        code = getattr(function, "__code__", None)
        if code is not None and _is_users(code.co_filename):
            place = f"{short_path(code.co_filename)}, line {code.co_firstlineno}"
            return f"{function.__qualname__.rpartition('.<locals>.')[2]} ({place})"
    return None


def short_path(path: str) -> str:
    """Return the last two parts of a path: the whole one may be another machine's."""
    return "/".join(Path(path).parts[-2:])


def _is_users(file: str) -> bool:
    ours, libraries = _prefixes()
    return not file.startswith((*ours, *libraries))


@functools.cache  # Python works its paths out anew in each call: that took 7% of a small run
def _prefixes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return how the paths of fedsplit's files begin, and those of libraries."""
    installed = Path(__file__).parents[1]  # site-packages, or a checkout
    ours = tuple(f"{installed / name}{os.sep}" for name in ("fedsplit", "strategies"))
    libraries = tuple(f"{sysconfig.get_path(kind)}{os.sep}" for kind in ("stdlib", "purelib"))
    return ours, ("<", *libraries)
