"""The directory that a run leaves behind: ``<output-dir>/<run-name>/``."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from fedsplit.config import Config, Scalar
from fedsplit.errors import ConfigError, RunError
from fedsplit.results.strict_json import dumps


class RunDirectory:
    """A directory of one run, and the only one that writes its records.

    ::

        config.toml     every key of the run, loadable again
        rounds.jsonl    one object per finished round
        shards.json     who holds how many images of each class
        summary.json    written when the run ends
        model/          the final weights, and beside it the plots

    Attributes
    ----------
    path : Path
        Absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def config_path(self) -> Path:
        """Where the resolved config is."""
        return self.path / "config.toml"

    @property
    def rounds_path(self) -> Path:
        """Where the rounds are."""
        return self.path / "rounds.jsonl"

    @property
    def summary_path(self) -> Path:
        """Where the summary is."""
        return self.path / "summary.json"

    @property
    def shards_path(self) -> Path:
        """Where it stands who holds what."""
        return self.path / "shards.json"

    @property
    def model_dir(self) -> Path:
        """Where the final model belongs; made by whoever saves it."""
        return self.path / "model"

    @property
    def clients_dir(self) -> Path:
        """Where clients' own parts belong, if they keep their own; made by whoever saves them."""
        return self.path / "clients"

    @classmethod
    def check_free(cls, config: Config) -> None:
        """Refuse what `create` would refuse, and make nothing.

        Raises
        ------
        ConfigError
            If the named run directory exists, or no directory can be made in ``output-dir``.
        """
        output_dir = Path(config.output_dir).absolute()
        try:
            if config.run_name and os.path.lexists(output_dir / config.run_name):
                raise _taken(output_dir / config.run_name)
            existing = next(p for p in (output_dir, *output_dir.parents) if os.path.lexists(p))
            if not existing.is_dir():
                raise _cannot_make(output_dir, f"'{existing}' is not a directory")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise _cannot_make(output_dir, f"no permission to write in '{existing}'")
        except OSError as error:
            raise _cannot_make(output_dir, error.strerror or str(error)) from None

    @classmethod
    def create(cls, config: Config) -> Self:
        """Make the run directory with its ``config.toml``.

        Without a ``run-name`` the name is strategy, data set and local time; runs that start in
        the same second get ``-2``, ``-3``, and so on.

        Raises
        ------
        ConfigError
            If the named run directory exists, or the directory cannot be made.
        RunError
            If the config cannot be written.
        """
        cls.check_free(config)
        output_dir = Path(config.output_dir).absolute()
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            directory = cls(_make(output_dir, config))
        except OSError as error:
            raise _cannot_make(output_dir, error.strerror or str(error)) from None
        directory._write_config(config)
        return directory

    def append_round(self, row: Mapping[str, object]) -> None:
        """Add one line to ``rounds.jsonl``; it is there even if the run is killed right after.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        line = dumps(row) + "\n"
        try:
            # Unbuffered: the line reaches the kernel in one write, whole.
            with self.rounds_path.open("ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:
            raise _cannot_write(self.rounds_path, error) from None

    def write_shards(
        self, class_counts: Sequence[Sequence[int]], class_names: Sequence[str]
    ) -> None:
        """Write ``shards.json``: [K, classes] training images, and the classes' names.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        text = dumps({"class_names": class_names, "class_counts": class_counts}) + "\n"
        try:
            # A folder's name need not be Unicode: half a character is written as JSON's escape.
            self.shards_path.write_bytes(text.encode(errors="backslashreplace"))
        except OSError as error:
            raise _cannot_write(self.shards_path, error) from None

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write ``summary.json``, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        text = dumps(summary, indent=2) + "\n"
        temporary = self.summary_path.with_name(f".{self.summary_path.name}.{os.getpid()}")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.summary_path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _cannot_write(self.summary_path, error) from None

    def _write_config(self, config: Config) -> None:
        try:
            self.config_path.write_text(config_toml(config, self.config_path), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(self.config_path, error) from None


def config_toml(config: Config, path: Path) -> str:
    """Return a config as TOML with every key; the first line is the command that runs it again.

    Parameters
    ----------
    config : Config
        What to write.
    path : Path
        Where the text will be.
    """
    command = f"fedsplit run {shlex.quote(str(path))}"
    if config.run_name:
        again = shlex.quote(f"run-name={config.run_name}-again")
        command += f" --set {again}"
    if not command.isprintable():  # a comment cannot hold a line break
        command = "fedsplit run config.toml"
    lines = [f"# {command}"]
    section = ""
    # Keys without a section have to come before the first table.
    for key, value in sorted(config.to_flat().items(), key=lambda item: "." in item[0]):
        table, _, name = key.rpartition(".")
        if table != section:
            section = table
            lines += ["", f"[{table}]"]
        lines.append(f"{name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _make(output_dir: Path, config: Config) -> Path:
    if config.run_name:
        path = output_dir / config.run_name
        try:
            path.mkdir()
        except FileExistsError:
            raise _taken(path) from None
        return path
    for name in _names(config):
        path = output_dir / name
        try:
            path.mkdir()  # atomic: of two runs that want the name, one gets it
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def free_name(config: Config) -> str:
    """Return ``run-name``, or a name that no run in ``output-dir`` has."""
    if config.run_name:
        return config.run_name
    output_dir = Path(config.output_dir)
    return next(name for name in _names(config) if not os.path.lexists(output_dir / name))


def _names(config: Config) -> Iterator[str]:
    """Yield the names that a run without a name of its own may take."""
    base = f"{config.strategy}-{_dataset_word(config.data.name)}-{_timestamp()}"
    yield base
    yield from (f"{base}-{number}" for number in itertools.count(2))


def _timestamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def _dataset_word(name: str) -> str:
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name)[:40].strip("-.")
    return word or "data"


def _taken(path: Path) -> ConfigError:
    return ConfigError(
        f"The run directory '{path}' exists already and is left as it is. Choose another "
        "run-name, leave run-name empty to get a new name for each run, or remove the directory."
    )


def _cannot_make(output_dir: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"No run directory can be made in '{output_dir}': {reason}. "
        "Set output-dir to a directory that you can write to."
    )


def _cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(
        f"'{path}' cannot be written: {error.strerror or error}. Free space on its disk and check "
        "that the run directory is still there, then run again."
    )
