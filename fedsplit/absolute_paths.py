"""Absolute paths for a config's local names, so that they are valid in any working directory."""

from __future__ import annotations

from pathlib import Path

from fedsplit.config import Config
from fedsplit.data.sources import BUNDLED
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.names import local_directory
from fedsplit.references import is_reference

_FILES = (
    "channel.certificate",
    "channel.private-key",
    "channel.client-ca",
    "channel.root-certificates",
)


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
    for key, value in config.to_flat().items():
        if key in _FILES and value:
            changes[key] = str(Path(str(value)).expanduser().resolve())
    return Config.load(config, changes)


def relative_place(config: Config) -> str | None:
    """Return why runs of ``flwr run`` land where they do, if ``output-dir`` is relative."""
    if Path(config.output_dir).expanduser().is_absolute():
        return None
    return (
        f"output-dir = '{config.output_dir}' is relative to '{Path.cwd()}', where this SuperLink "
        "was started. 'fedsplit run' takes the folder in which it is called."
    )
