"""Absolute paths for a config's local names, so that they are valid in any working directory."""

from __future__ import annotations

from pathlib import Path

from fedsplit.config import Config
from fedsplit.data.sources import BUNDLED
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.names import local_directory
from fedsplit.references import is_reference


def with_absolute_paths(config: Config) -> Config:
    """Return a config with absolute local paths: other processes have other working directories.

    A bundled data set, a built-in model and a function (``package.module:name``) take precedence
    over a folder of the same name, and are unchanged.
    """
    changes: dict[str, object] = {"output-dir": str(Path(config.output_dir).expanduser().resolve())}
    for key, name, ours in (
        ("model.name", config.model.name, BUILTIN_MODELS),
        ("data.name", config.data.name, BUNDLED),
    ):
        folder = None if name in ours or is_reference(name) else local_directory(name)
        if folder is not None:
            changes[key] = str(folder.resolve())
    return Config.load(config, changes)
