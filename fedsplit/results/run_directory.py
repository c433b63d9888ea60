"""A run's directory: ``<output-dir>/<run-name>/``."""

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
    """The directory of one run. Only this class writes its records.

    ::

        config.toml     every key of the run, loadable again
        rounds.jsonl    one object per finished round
        shards.json     the number of images of each class at each client
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
        """The path of the resolved config."""
        return self.path / "config.toml"

    @property
    def rounds_path(self) -> Path:
        """The path of the rounds."""
        return self.path / "rounds.jsonl"

    @property
    def summary_path(self) -> Path:
        """The path of the summary."""
        return self.path / "summary.json"

    @property
    def shards_path(self) -> Path:
        """The path of the class counts of all clients."""
        return self.path / "shards.json"

    @property
    def model_dir(self) -> Path:
        """The directory of the final model. It exists once the model is saved."""
        return self.path / "model"

    @property
    def clients_dir(self) -> Path:
        """The directory of the parts that clients keep. It exists once they are saved."""
        return self.path / "clients"

    @classmethod
    def check_free(cls, config: Config) -> None:
        """Refuse what `create` would refuse, without making anything.

        Raises
        ------
        ConfigError
            If the named run directory exists, or ``output-dir`` cannot hold a new directory.
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

        Without a ``run-name``, the name is made of strategy, data set and local time. Runs that
        start in the same second get ``-2``, ``-3``, and so on.

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
        """Add one line to ``rounds.jsonl``. A run that is killed right after keeps it.

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
        """Write ``shards.json``: the numbers of training images, [K, classes], and class names.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        text = dumps({"class_names": class_names, "class_counts": class_counts}) + "\n"
        try:
            # Folder names need not be valid Unicode: a lone surrogate becomes an escape of JSON.
            self.shards_path.write_bytes(text.encode(errors="backslashreplace"))
        except OSError as error:
            raise _cannot_write(self.shards_path, error) from None

    def write_rounds(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace ``rounds.jsonl``, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        _replace(self.rounds_path, "".join(dumps(row) + "\n" for row in rows))

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write ``summary.json``, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        _replace(self.summary_path, dumps(summary, indent=2) + "\n")

    def _write_config(self, config: Config) -> None:
        try:
            self.config_path.write_text(config_toml(config, self.config_path), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(self.config_path, error) from None


def config_toml(config: Config, path: Path) -> str:
    """Return a config as TOML with every key. Its first line is the command that runs it again.

    Parameters
    ----------
    config : Config
        What to write.
    path : Path
        The file that the text is for.
    """
    command = f"fedsplit run {shlex.quote(str(path))}"
    if config.run_name:
        again = shlex.quote(f"run-name={config.run_name}-again")
        command += f" --set {again}"
    if not command.isprintable():  # a comment cannot hold a line break
        command = "fedsplit run config.toml"
    lines = [f"# {command}"]
    section = ""
    # In TOML, keys without a table come before the first table.
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
        # JSON and TOML share their escapes, except that TOML requires one for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from None


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
            path.mkdir()  # atomic: only one of two runs gets the name
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def free_name(config: Config) -> str:
    """Return ``run-name``, or one that is free in ``output-dir``."""
    if config.run_name:
        return config.run_name
    output_dir = Path(config.output_dir)
    return next(name for name in _names(config) if not os.path.lexists(output_dir / name))


def _names(config: Config) -> Iterator[str]:
    """Yield the names that a run without a ``run-name`` tries."""
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
        f"The run directory '{path}' exists already and was not changed. Choose another "
        "run-name, leave it empty to get a new name for each run, or remove the directory."
    )


def _cannot_make(output_dir: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"Cannot make a run directory in '{output_dir}': {reason}. "
        "Set output-dir to a directory that you can write to."
    )


def _cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(
        f"Cannot write '{path}': {error.strerror or error}. Free space on its disk, check that "
        "the run directory still exists, and run again."
    )
