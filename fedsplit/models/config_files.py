"""The configs in a model's directory, which may be a stranger's, without code that they name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fedsplit.models.directory import PROCESSOR, WHOLE_PROCESSOR, file_in, parse, read_text
from fedsplit.models.named_code import check_code, without_code


def read_config(directory: Path, name: str, *, trust: bool) -> dict[str, Any]:
    """Return what a config says, without what libraries would follow to code or other files.

    Raises
    ------
    ModelError
        If it is no regular file of the directory, no JSON object, or names code without `trust`.
    """
    path = file_in(directory, name, trust=trust)
    config = parse(read_text(path), path)
    check_code(config, path, trust=trust)
    return without_code(config)


def processor_text(directory: Path, *, trust: bool) -> str:
    """Return how a model's images are processed, as JSON; empty if its directory does not say it.

    Raises
    ------
    ModelError
        As `read_config`: a pipe or a broken link is no reason to do without.
    """
    if os.path.lexists(directory / PROCESSOR):
        return json.dumps(read_config(directory, PROCESSOR, trust=trust))
    if os.path.lexists(directory / WHOLE_PROCESSOR):
        of_images = read_config(directory, WHOLE_PROCESSOR, trust=trust).get("image_processor")
        return json.dumps(of_images) if isinstance(of_images, dict) else ""
    return ""
