"""`fedsplit run` with the Flower engine: ``flwr run``, with a federation that fits the config."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from fedsplit.checking import check, check_images, check_shards
from fedsplit.collector import collect_again
from fedsplit.config import Config, config_toml
from fedsplit.data.run import reading
from fedsplit.devices import gpus_per_client
from fedsplit.errors import OTHER_VERSION, InterruptionError, RunError
from fedsplit.participants import clients_at_once
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.run_names import free_name
from fedsplit.run_log import early_warnings
from fedsplit.scratch import Scratch
from fedsplit.screen import Screen
from fedsplit.superlink import SuperLink, program
from fedsplit.tls import check_certificates

_ACCEPTED = re.compile(r"Successfully started run (\d+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_RECORD = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) *: *(.*)")
_CHATTER = re.compile(
    r"\((\w+ )*pid=|Since flwr 1\.32|Skipping `flwr` dependency|Successfully installed \S+ to "
)
"""Ray's copies of what clients print, and Flower's remarks that are not about this run."""
_PANEL, _END_OF_PANEL = re.compile(r"Exit Code: \d+"), "For more information, visit: "
"""How Flower's explanation of the process's exit code begins, and its last line."""
_STOP_SECONDS = 30.0
_LINES_OF_FAILURE = 30


def run_with_flower(config: Config, *, app_dir: Path, superlink: str | None = None) -> Path:
    """Check a config, and run it by ``flwr run`` with as many SuperNodes as it has clients.

    Ctrl-C stops the run too, and not only the command that shows its log.

    Parameters
    ----------
    config : Config
        With absolute paths and a number of clients.
    app_dir : Path
        The folder of the Flower app.
    superlink : str | None
        A connection of Flower's configuration; None = the project's own SuperLink.

    Returns
    -------
    Path
        The run directory.

    Raises
    ------
    FedSplitError
        If the config cannot run here, or the run fails.
    """
    config = Config.load(config, {"run-name": free_name(config)})
    own = None if superlink is not None else SuperLink(app_dir)
    started = own is not None and own.begin()  # it gets ready while the config is checked
    try:
        with reading(config.data), early_warnings() as warned:
            check(config)
            check_certificates(config.channel)
            check_shards(config)
            check_images(config)
        collect_again()
        if own is not None:
            own.wait()
        if config.console != "quiet":
            where = f"connection '{superlink}'" if own is None else f"SuperLink {own.address}"
            # Ray's processes start, and each imports torch.
            print(f"Starting {config.num_clients} clients in Flower ({where}) ...", flush=True)  # noqa: T201
    except BaseException:
        if own is not None and started:
            own.end()
        raise
    directory = RunDirectory(Path(config.output_dir) / config.run_name)
    folder = Scratch("run")
    try:
        run_config = folder.path / "run-config.toml"
        run_config.write_text(config_toml(config, run_config), encoding="utf-8")
        _Command(config, directory, own, warned).run(
            *("run", str(app_dir), *([] if superlink is None else [superlink]), "--stream"),
            *("--run-config", str(run_config)),
            *("--federation-config", federation_config(config)),
        )
    finally:
        folder.remove()
    return directory.path


def federation_config(config: Config) -> str:
    """Return the simulation's settings: one SuperNode per client, one core per client at work.

    Clients on GPUs share all that are visible here.
    """
    at_once = clients_at_once(config)
    gpus = gpus_per_client(config.device, at_once)
    return (
        f"num-supernodes={config.num_clients} client-resources-num-cpus=1 "
        f"init-args-num-cpus={at_once}{f' client-resources-num-gpus={gpus:g}' if gpus else ''}"
    )


class _Command:
    """One ``flwr run``, and what it prints."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        own: SuperLink | None,
        warned: Collection[str] = (),
    ) -> None:
        self._warned = {f"Warning: {text}" for text in warned}
        self._config = config
        self._directory = directory
        self._earlier = self._summary()  # of a run that was finished, and is to be longer
        self._own = own
        self._screen = Screen()
        self._run_id: str | None = None
        self._sessions: frozenset[int] = frozenset()
        self._unwritten: list[str] = []
        self._last_hidden: deque[str] = deque(maxlen=_LINES_OF_FAILURE)
        self._log: TextIO | None = None
        self._errors: list[str] = []
        self._in_panel = False

    def run(self, *arguments: str) -> None:
        with subprocess.Popen(
            [program("flwr"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    self._take(line.rstrip("\n"))
                status = process.wait()
            except KeyboardInterrupt:
                process.terminate()
                self._interrupt()
                raise InterruptionError(
                    f"Interrupted. {self._directory.how_to_continue()}"
                ) from None
            finally:
                self._screen.clear()
                self._write_log()
                if self._log is not None:
                    self._log.close()
        if status or self._summary() in (None, self._earlier):
            self._fail()

    def _summary(self) -> tuple[int, int] | None:
        """Return what tells the summary from another one; None = there is none."""
        try:
            found = self._directory.summary_path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ} if self._own is None else self._own.environment()

    def _take(self, line: str) -> None:
        """Show a line unless it is Flower's or Ray's own, and write it to the file of all lines."""
        plain = _COLOUR.sub("", line)
        record = _LOG_RECORD.match(plain)
        level, text = record.groups() if record else ("", plain)
        said_before = self._is_said_before(level, text)
        if level in {"ERROR", "CRITICAL"} and not said_before:
            self._errors.append(text)
        if self._config.console == "verbose":
            self._screen.show(line if sys.stdout.isatty() else plain)
        elif said_before or self._is_chatter(level, plain):
            self._last_hidden.append(plain)
        elif level:
            self._screen.show(f"{level.capitalize()}: {text}")
        else:
            self._screen.show(plain)
        if self._run_id is None and (accepted := _ACCEPTED.search(plain)):
            self._run_id = accepted[1]
            self._sessions = self._own.sessions() if self._own else frozenset()
        self._unwritten.append(plain)
        self._write_log()

    def _is_said_before(self, level: str, text: str) -> bool:
        """Return whether a line says again what the console has: Flower ends with a panel."""
        if level:
            self._in_panel = bool(self._errors and _PANEL.match(text))
        if self._in_panel:
            self._in_panel = not text.startswith(_END_OF_PANEL)
            return True
        return text in (self._errors if level else self._warned)

    def _is_chatter(self, level: str, plain: str) -> bool:
        if self._run_id is None or level in {"DEBUG", "INFO"} or _CHATTER.search(plain):
            return True
        return self._config.console == "quiet" and not (level or plain.startswith("Warning: "))

    def _write_log(self) -> None:
        """Write all lines so far, as soon as the run has a directory."""
        if self._log is None and self._directory.config_path.is_file():
            with suppress(OSError):
                self._log = self._directory.flower_log_path.open("a", encoding="utf-8", buffering=1)
        if self._log is not None:
            with suppress(OSError):  # the run itself says that the disk is full
                self._log.writelines(f"{line}\n" for line in self._unwritten)
            self._unwritten.clear()

    def _fail(self) -> None:
        own, name = self._own, self._config.run_name
        if own is not None and own.pid() is None:
            self._interrupt_owner()
            self._directory.wait_until_free(_STOP_SECONDS)
            own.end_rest(self._sessions)
            raise RunError(
                f"The run '{name}' ended because the project's SuperLink has ended "
                f"('{own.log_path}' is its log). {self._directory.how_to_continue()}"
            )
        if not self._errors:
            print("\n".join(self._last_hidden), file=sys.stderr)  # noqa: T201
        kept = self._directory.flower_log_path
        where = f" Everything that Flower printed is in '{kept}'." if kept.is_file() else ""
        how = self._directory.how_to_continue()
        if not any(said in error for error in self._errors for said in (how, OTHER_VERSION)):
            where += f" {how}"
        raise RunError(f"The run '{name}' did not finish; the lines above say why.{where}")

    def _interrupt(self) -> None:
        """End the run: for Flower, which would notice it in half a minute, and at once."""
        self._screen.clear()
        print("Stopping the run. Ctrl-C again leaves at once.", file=sys.stderr)  # noqa: T201
        self._interrupt_owner()
        if self._run_id is not None:
            subprocess.run(
                [program("flwr"), "stop", self._run_id],
                check=False,
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        if not self._directory.wait_until_free(_STOP_SECONDS):
            print(  # noqa: T201
                "The run has not ended yet: 'fedsplit runs' shows whether it has, 'fedsplit stop' "
                "ends it with the project's SuperLink.",
                file=sys.stderr,
            )

    def _interrupt_owner(self) -> None:
        """Interrupt the process that makes the run."""
        owner = self._directory.owner()
        if owner is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(owner, signal.SIGINT)
