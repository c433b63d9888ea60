"""Where in the user's own code an unforeseen error was raised."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path


def users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the frame that raised an error, if it is neither in fedsplit nor called by it.

    What libraries raise counts as raised by the innermost line that called them.
    """
    installed = Path(__file__).parents[1]  # site-packages, or a checkout
    ours = tuple(f"{installed / name}{os.sep}" for name in ("fedsplit", "strategies"))
    libraries = tuple(f"{sysconfig.get_path(kind)}{os.sep}" for kind in ("stdlib", "purelib"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(ours):
            return None
        if not frame.filename.startswith(("<", *libraries)):
            return frame
    return None
