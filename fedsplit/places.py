"""Where a config's local names lead, whatever folder it is run from."""

from __future__ import annotations

from pathlib import Path

from fedsplit.config import Config
from fedsplit.data.catalog import BUNDLED
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.names import local_directory


def with_absolute_paths(config: Config) -> Config:
    """Return a config whose local paths are absolute: other processes work in folders of their own.

    A bundled data set or a built-in model goes before a folder of its name.
    """
    changes: dict[str, object] = {"output-dir": str(Path(config.output_dir).expanduser().resolve())}
    for key, name, ours in (
        ("model.name", config.model.name, BUILTIN_MODELS),
        ("data.name", config.data.name, BUNDLED),
    ):
        folder = None if name in ours else local_directory(name)
        if folder is not None:
            changes[key] = str(folder.resolve())
    return Config.load(config, changes)
