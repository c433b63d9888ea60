"""`fedsplit run` with the Flower engine: ``flwr run``, with a federation that fits the config."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from fedsplit.checking import check, check_shards
from fedsplit.config import Config, config_toml
from fedsplit.data.run import reading
from fedsplit.devices import gpus_per_client
from fedsplit.errors import InterruptionError, RunError
from fedsplit.participants import clients_at_once
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.run_names import free_name
from fedsplit.scratch import Scratch

_ACCEPTED = re.compile(r"Successfully started run (\d+)")
_STOP_SECONDS = 30.0


def run_with_flower(config: Config, *, app_dir: Path) -> None:
    """Check a config, and run it by ``flwr run`` with as many SuperNodes as it has clients.

    Ctrl-C stops the run too, and not only the command that shows its log.

    Parameters
    ----------
    config : Config
        With absolute paths and a number of clients.
    app_dir : Path
        The folder of the Flower app.

    Raises
    ------
    FedSplitError
        If the config cannot run here, or the run fails.
    """
    config = Config.load(config, {"run-name": free_name(config)})
    with reading(config.data):
        check(config)
        check_shards(config)
    directory = RunDirectory(Path(config.output_dir) / config.run_name)
    directory.summary_path.unlink(missing_ok=True)  # of a run that continues
    folder = Scratch("run")
    try:
        run_config = folder.path / "run-config.toml"
        run_config.write_text(config_toml(config, run_config), encoding="utf-8")
        status = _run(
            *("run", str(app_dir), "--stream", "--run-config", str(run_config)),
            *("--federation-config", federation_config(config)),
            directory=directory,
        )
    finally:
        folder.remove()
    if status or not directory.summary_path.is_file():
        raise RunError(
            f"The run '{config.run_name}' did not finish; the log above says why. To see the log "
            f"again: flwr list, then flwr log. {directory.how_to_continue()}"
        )


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


def _run(*arguments: str, directory: RunDirectory) -> int:
    """Run ``flwr`` and pass on what it prints; return its exit status."""
    run_id = None
    command = [_flwr(), *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(),
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)  # noqa: T201
                if run_id is None and (accepted := _ACCEPTED.search(line)):
                    run_id = accepted[1]
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            if run_id is not None:
                _stop(run_id, directory)
            raise InterruptionError(f"Interrupted. {directory.how_to_continue()}") from None


def _stop(run_id: str, directory: RunDirectory) -> None:
    """End a run: for Flower, which would notice it in half a minute, and at once."""
    subprocess.run(
        [_flwr(), "stop", run_id], check=False, env=_environment(), stdout=subprocess.DEVNULL
    )
    owner = directory.owner()
    if owner is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(owner, signal.SIGINT)
    if not directory.wait_until_free(_STOP_SECONDS):
        print(  # noqa: T201
            f"fedsplit: run {run_id} has not ended after {_STOP_SECONDS:g} seconds; 'flwr list' "
            "shows whether it does.",
            file=sys.stderr,
        )


def _flwr() -> str:
    return str(Path(sys.executable).with_name("flwr"))


def _environment() -> dict[str, str]:
    """Put this environment's programs on the path, which flwr starts by name; buffer nothing."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
