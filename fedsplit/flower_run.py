"""`fedsplit run` with the Flower engine: ``flwr run``, with a federation that fits the config."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fedsplit.checking import check, check_shards, clients_at_once
from fedsplit.config import Config, config_toml
from fedsplit.data.run import reading
from fedsplit.errors import RunError
from fedsplit.results.run_directory import RunDirectory, free_name


def run_with_flower(config: Config, *, app_dir: Path) -> None:
    """Check a config, and run it by ``flwr run`` with as many SuperNodes as it has clients.

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
    with tempfile.TemporaryDirectory(prefix="fedsplit-") as folder:
        run_config = Path(folder) / "run-config.toml"
        run_config.write_text(config_toml(config, run_config), encoding="utf-8")
        command = [
            *(str(Path(sys.executable).with_name("flwr")), "run", str(app_dir), "--stream"),
            *("--run-config", str(run_config)),
            *("--federation-config", federation_config(config)),
        ]
        status = subprocess.run(command, check=False, env=_environment()).returncode
    if status or not directory.summary_path.is_file():
        raise RunError(
            f"The run '{config.run_name}' did not finish; the log above says why. What it has "
            f"written is in {directory.path}. To see the log again: flwr list, then flwr log."
        )


def federation_config(config: Config) -> str:
    """Return the simulation's settings: one SuperNode per client, one core per client at work."""
    at_once = clients_at_once(config)
    return (
        f"num-supernodes={config.num_clients} client-resources-num-cpus=1 "
        f"init-args-num-cpus={at_once}"
    )


def _environment() -> dict[str, str]:
    """Put this environment's programs on the path: flwr starts others by name."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([here, os.environ.get("PATH", "")])}
