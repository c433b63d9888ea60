"""What is where in a run's directory, and whether a process is making the run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from fedsplit.config import Config, flwr_command
from fedsplit.data.regular_files import special_kind
from fedsplit.errors import ConfigError
from fedsplit.locks import FileLock
from fedsplit.objects import arguments_of
from fedsplit.results.checkpoints import Checkpoints
from fedsplit.results.last_process import LastProcess


class RunPaths:
    """The paths in the directory of one run, whether it exists or not.

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
    def resume_path(self) -> Path:
        """The path of the config with which ``flwr run`` continues the run."""
        return self.path / "resume.toml"

    @property
    def rounds_path(self) -> Path:
        """The path of the rounds."""
        return self.path / "rounds.jsonl"

    @property
    def client_results_path(self) -> Path:
        """The path of the results of single clients."""
        return self.path / "clients.jsonl"

    @property
    def summary_path(self) -> Path:
        """The path of the summary."""
        return self.path / "summary.json"

    @property
    def log_path(self) -> Path:
        """The path of the run's log."""
        return self.path / "log.txt"

    @property
    def flower_log_path(self) -> Path:
        """The path of what Flower and Ray have printed, if ``fedsplit run`` used them."""
        return self.path / "flower.txt"

    @property
    def error_path(self) -> Path:
        """The path of the error with which the run has failed, if it has."""
        return self.path / "error.txt"

    @property
    def start_path(self) -> Path:
        """The path of what was known before the first round."""
        return self.path / "start.json"

    @property
    def process_path(self) -> Path:
        """The path of what only the process that has made the run last knows."""
        return self.path / "process.json"

    def last_process(self) -> LastProcess | None:
        """Return what is known of the process that has made the run last."""
        return LastProcess.read(self.process_path)

    @property
    def shards_path(self) -> Path:
        """The path of the class counts of all clients."""
        return self.path / "shards.json"

    @property
    def model_dir(self) -> Path:
        """The directory of the final model. It exists once the model is saved."""
        return self.path / "model"

    @property
    def best_dir(self) -> Path:
        """The directory of the model after the best round of those with a checkpoint."""
        return self.path / "best"

    @property
    def best_clients_dir(self) -> Path:
        """The directory of the parts that clients kept after that round."""
        return self.path / "best-clients"

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def clients_dir(self) -> Path:
        """The directory of the parts that clients keep. It exists once they are saved."""
        return self.path / "clients"

    def owner(self) -> int | None:
        """Return the id of the process that is making this run, or None if none is."""
        return FileLock.owner(self.lock_path)

    def check_idle(self) -> None:
        """Refuse a run that another process is making.

        Raises
        ------
        ConfigError
            Names the process.
        """
        owner = self.owner()
        if owner is not None:
            raise self._going_on(owner)

    def _going_on(self, owner: int | None) -> ConfigError:
        return ConfigError(
            f"The run in '{self.path}' is going on in process {owner}. Wait until it has ended. "
            "'fedsplit runs' shows it; 'fedsplit stop' in the app's folder ends it with the "
            "project's SuperLink, and 'flwr stop' if 'flwr run' has started it."
        )

    def wait_until_free(self, seconds: float) -> bool:
        """Wait until no process makes this run; return whether that is so."""
        deadline = time.monotonic() + seconds
        while self.owner() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)  # a lock of another process can only be tried
        return True

    def how_to_continue(self) -> str:
        """Return a sentence that says from where a run that has ended early can continue."""
        kept = self.checkpoints.rounds()
        if not self.config_path.is_file():
            return "It had not begun, and has left no run directory."
        command = self.command_to_continue(Config.load(self.config_path).to_flat())
        if not kept:
            return f"No round is kept in '{self.path}'. To begin it again there: {command}"
        return f"Everything up to round {kept[-1]} is kept. Continue with: {command}"

    def command_to_continue(self, values: Mapping[str, object]) -> str:
        """Return the command, or the call, that continues a run of this config, by its keys."""
        if objects := self.objects(values):
            given = "".join(f", {argument}=..." for argument in objects)
            return f"simulate(resume={str(self.path)!r}{given})"
        if (last := self.last_process()) and last.deployed:
            return flwr_command(self.resume_path, deployed=True)
        return f"fedsplit run --resume {shlex.quote(str(self.path))}"

    def objects(self, values: Mapping[str, object]) -> dict[str, str]:
        """Return the arguments of `simulate` with which a run of this config was made last.

        Returns
        -------
        dict[str, str]
            Argument -> what was given is called.
        """
        last = self.last_process()
        return {**arguments_of(values), **({} if last is None else last.given)}

    def check_files(self) -> None:
        """Refuse a directory with something else in place of a file, before it is written to.

        A pipe would be waited for, and a folder found to be in the way after hours of training.

        Raises
        ------
        ConfigError
            Names what is in the way.
        """
        folders = (
            self.checkpoints.folder,
            *(self.model_dir, self.clients_dir, self.best_dir, self.best_clients_dir),
        )
        files = (
            *(self.config_path, self.resume_path, self.rounds_path, self.client_results_path),
            *(self.summary_path, self.log_path, self.flower_log_path, self.error_path),
            *(self.start_path, self.process_path, self.shards_path, self.lock_path),
        )
        kinds = {path: special_kind(path) for path in (*folders, *files)}
        kinds |= {path: "a file" for path in folders if path.is_file()}
        kinds |= {path: "a folder" for path in files if path.is_dir()}
        for path, kind in kinds.items():
            if kind:
                own = "folder" if path in folders else "file"
                raise ConfigError(
                    f"'{path}' is {kind}, where a run has a {own} of its own. Move it out of the "
                    "run directory."
                )

    @property
    def lock_path(self) -> Path:
        """The path of the lock that the process which makes the run holds."""
        return self.path / ".lock"
