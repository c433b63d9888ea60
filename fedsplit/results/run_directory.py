"""A run's directory: ``<output-dir>/<run-name>/``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from fedsplit.config import Config, config_toml
from fedsplit.errors import ConfigError, RunError, cannot_write, damaged
from fedsplit.locks import FileLock
from fedsplit.results.files import (
    append_line,
    read_lines,
    read_object,
    remove_partial,
    replace_text,
)
from fedsplit.results.last_process import LastProcess
from fedsplit.results.run_names import make_named, taken
from fedsplit.results.run_paths import RunPaths
from fedsplit.results.strict_json import dumps


class RunDirectory(RunPaths):
    """The directory of one run. Only this class writes its records.

    ::

        config.toml     every key of the run, loadable again
        resume.toml     the same, for ``flwr run`` to continue the run
        rounds.jsonl    one object per finished round
        clients.jsonl   what each client measured, one object per finished round
        error.txt       the error with which the run has failed, if it has
        process.json    the engine, and what only the last process that made the run had
        start.json      what was known before the first round, for the report of an unfinished run
        shards.json     the number of images of each class at each client
        checkpoints/    the state after the last two rounds and the best one
        summary.json    written when the run ends
        model/          the final weights, and beside it the plots
        best/           the weights after the best round of those with a checkpoint

    Attributes
    ----------
    path : Path
        Absolute.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock: FileLock | None = None

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
                raise taken(output_dir / config.run_name)
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
            directory = cls(make_named(output_dir, config))
        except OSError as error:
            raise _cannot_make(output_dir, error.strerror or str(error)) from None
        try:
            directory._hold()
            directory._write_config(config)
        except BaseException:  # a directory without a config would only keep its name from others
            directory.close()
            shutil.rmtree(directory.path, ignore_errors=True)
            raise
        return directory

    @classmethod
    def reopen(cls, config: Config, rounds_done: int) -> Self:
        """Open the directory of a run that continues after a round; see `Config.resume`.

        Nothing in it is changed before `go_on`.

        Raises
        ------
        ConfigError
            If another process is making this run, or has finished it in the meantime; if the
            directory has something else in place of a file.
        """
        directory = cls(Path(config.resume))
        directory.check_files()
        directory._hold()
        try:
            directory._check_not_gone_on(rounds_done)
        except BaseException:
            directory.close()
            raise
        return directory

    def go_on(self, config: Config, rounds_done: int) -> None:
        """Prepare the directory for the rounds after those that are done.

        What later rounds have left is removed, and so are the summary and the error, which are
        those of a run that has ended.

        Raises
        ------
        RunError
            If the config cannot be written.
        """
        try:
            remove_partial(self.path)
            self.checkpoints.remove_after(rounds_done)
            self.summary_path.unlink(missing_ok=True)
            self.error_path.unlink(missing_ok=True)
            if rounds_done == 0:
                self.rounds_path.unlink(missing_ok=True)
                self.client_results_path.unlink(missing_ok=True)
            self._write_config(config)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def _check_not_gone_on(self, rounds_done: int) -> None:
        """Refuse to remove what another process has made since this one has read a checkpoint."""
        if not self.summary_path.is_file():
            return
        try:
            finished = int(read_object(self.summary_path)["finished_rounds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "Move it out of the run directory: the run then goes on from its checkpoint."
            raise damaged(self.summary_path, error, remedy) from None
        if finished > rounds_done:
            raise ConfigError(
                f"The run in '{self.path}' has been finished by another process in the meantime."
            )

    def close(self) -> None:
        """Let other processes continue this run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def is_open(self) -> bool:
        """Whether this object holds the directory's lock."""
        return self._lock is not None

    def _write_config(self, config: Config) -> None:
        config = Config.load(config, {"resume": ""})
        replace_text(self.config_path, config_toml(config, self.config_path))
        self._write_resume(config, deployed=False)

    def _write_resume(self, config: Config, *, deployed: bool) -> None:
        continuing = Config.load(config, {"resume": str(self.path)})
        replace_text(self.resume_path, config_toml(continuing, self.resume_path, deployed=deployed))

    def _hold(self) -> None:
        """Lock the directory against other processes, for as long as this process lives."""
        try:
            self._lock = FileLock.take(self.lock_path)
        except OSError as error:
            raise cannot_write(self.lock_path, error) from None
        if self._lock is None:
            raise self._going_on(self.owner())

    def append_round(self, row: Mapping[str, object]) -> None:
        """Add one line to ``rounds.jsonl``. A run that is killed right after keeps it.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        append_line(self.rounds_path, dumps(row))

    def append_client_results(self, results: Mapping[str, object]) -> None:
        """Add the results of a round's clients to ``clients.jsonl``, as `append_round` does.

        Raises
        ------
        RunError
            If they cannot be written.
        """
        append_line(self.client_results_path, dumps(results))

    def keep_client_results(self, rounds_done: int) -> None:
        """Remove the results of clients in later rounds, which are made again.

        Raises
        ------
        RunError
            If they cannot be written.
        """
        try:
            lines = read_lines(self.client_results_path)
            kept = [line for line in lines if int(line["round"]) <= rounds_done]
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "Move it out of the run directory: the report then lacks what it has."
            raise damaged(self.client_results_path, error, remedy) from None
        if lines:
            replace_text(self.client_results_path, "".join(dumps(line) + "\n" for line in kept))

    def write_shards(
        self, class_counts: Sequence[Sequence[int]], class_names: Sequence[str]
    ) -> None:
        """Write ``shards.json``: the numbers of training images, [K, classes], and class names.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        shards = {"class_names": class_names, "class_counts": class_counts}
        replace_text(self.shards_path, dumps(shards) + "\n")

    def write_rounds(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace ``rounds.jsonl``, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        replace_text(self.rounds_path, "".join(dumps(row) + "\n" for row in rows))

    def write_start(self, state: Mapping[str, object]) -> None:
        """Write ``start.json``: the recorder's state before the first round, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        replace_text(self.start_path, dumps(state, indent=2) + "\n")

    def write_process(self, process: LastProcess) -> None:
        """Write ``process.json``, what only the process that makes the run now knows.

        The first line of resume.toml is that of a deployed run from then on, if it is one.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        process.write(self.process_path)
        if process.deployed:
            self._write_resume(Config.load(self.config_path), deployed=True)

    def write_error(self, error: Exception) -> None:
        """Write ``error.txt``, unless that fails, too: the error itself matters more."""
        with suppress(RunError):
            replace_text(self.error_path, f"{type(error).__name__}: {error}\n")

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write ``summary.json``, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        replace_text(self.summary_path, dumps(summary, indent=2) + "\n")


def _cannot_make(output_dir: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"Cannot make a run directory in '{output_dir}': {reason}. "
        "Set output-dir to a directory that you can write to."
    )
