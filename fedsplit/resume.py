"""Continue a run from the last checkpoint in its directory."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path

from fedsplit.config import Config, Scalar
from fedsplit.errors import ConfigError, RunError
from fedsplit.names import local_directory
from fedsplit.results.best import is_over
from fedsplit.results.environment import at_last
from fedsplit.results.run_directory import RunDirectory
from fedsplit.snapshot import Snapshot

_logger = logging.getLogger(__name__)

_FORMAT = 2
_PLACE = ("output-dir", "run-name", "resume")
"""Keys that say where the run directory is, which may have been moved."""
_MAY_CHANGE = (
    "num-server-rounds",
    "checkpoint-every",
    "max-concurrent-clients",
    "device",
    "min-participants",
    "monitor",
    "patience",
    "connect-timeout",
    "round-timeout",
    "console",
    "model.trust",
)
_MAY_CHANGE_SECTIONS = ("channel", "sinks")


def continued(
    run_dir: str | Path, changes: Mapping[str, object], *, given: Collection[str] = ()
) -> Config:
    """Return the config with which a run continues.

    Parameters
    ----------
    run_dir : str | Path
        The directory of the run.
    changes : Mapping[str, object]
        Keys that differ from now on, such as ``num-server-rounds``.
    given : Collection[str]
        The arguments of `simulate` that give it objects.

    Raises
    ------
    ConfigError
        If it is no run directory, the run has finished or has kept no checkpoint, the changes
        would make it another run, or it lacks objects with which it was made.
    """
    path = local_directory(run_dir)
    if path is None or not RunDirectory(path).config_path.is_file():
        raise ConfigError(
            f"'{run_dir}' is not the directory of a run: it has no config.toml. Give a directory "
            "that 'fedsplit run' has made."
        )
    directory = RunDirectory(path.resolve())
    directory.check_files()
    directory.check_idle()
    saved = Config.load(directory.config_path)
    place = {"output-dir": str(directory.path.parent), "run-name": directory.path.name}
    changed = {key.replace("_", "-") for key in changes}  # either spelling
    fixed = {key: value for key, value in place.items() if key not in changed}
    asked = Config.load(saved, {**fixed, **changes, "resume": str(directory.path)})
    _check_place(asked, place)
    last = directory.checkpoints.last()
    done = 0 if last is None else last[0]
    check_same_run(asked, saved.to_flat() if last is None else last[1]["config"], done)
    check_given(asked, given)
    if last is None and saved.checkpoint_every == 0:
        raise ConfigError(
            f"The run in '{path}' has checkpoint-every = 0, so it cannot continue. Run it again: "
            f"fedsplit run {directory.config_path} --set run-name=NAME"
        )
    if _stopped(asked, last) and directory.summary_path.is_file():
        raise ConfigError(
            f"The run in '{path}' has ended early after round {done}: {asked.monitor} had not "
            f"improved for {asked.patience} rounds. To go on, have more patience: --set "
            "patience=NUMBER"
        )
    if done == asked.num_server_rounds and directory.summary_path.is_file():
        raise ConfigError(
            f"The run in '{path}' has finished all its {done} rounds. To go on, give it more: "
            "--set num-server-rounds=NUMBER"
        )
    return asked


def _stopped(asked: Config, last: tuple[int, Snapshot] | None) -> bool:
    """Return whether no round is left for a run's patience."""
    rows = [] if last is None else last[1]["recorder"]["rows"]
    return is_over(rows, asked.monitor, asked.patience)


def without_place(config: Config) -> dict[str, Scalar]:
    """Return the keys of a config that do not say where its run directory is."""
    return {key: value for key, value in config.to_flat().items() if key not in _PLACE}


def engine_of(config: Config) -> str | None:
    """Return the last engine of a run that continues, or None if that is not known."""
    directory = RunDirectory(Path(config.resume))
    process, last = directory.last_process(), directory.checkpoints.last()
    if process is not None:
        return process.engine
    return None if last is None else at_last(last[1]["recorder"]["facts"]["engine"])


def check_given(config: Config, given: Collection[str]) -> None:
    """Refuse to continue without the objects that a run was made with; callbacks only watch it.

    Parameters
    ----------
    config : Config
        With which the run is to continue.
    given : Collection[str]
        The arguments of `simulate` that give it objects.

    Raises
    ------
    ConfigError
        Names the objects, and the call that continues the run with them.
    """
    directory, values = RunDirectory(Path(config.resume)), config.to_flat()
    wanted = directory.objects(values)
    lacking = [
        f"{argument} ({names})"
        for argument, names in wanted.items()
        if argument not in {*given, "callbacks"}
    ]
    if lacking:
        raise ConfigError(
            f"The run in '{config.resume}' lacks {', '.join(lacking)}, which simulate() was given: "
            "they stay in the process that made them. Continue with: "
            f"{directory.command_to_continue(values)}"
        )


def check_same_run(config: Config, saved: Mapping[str, Scalar], rounds_done: int) -> None:
    """Refuse to continue with keys that would make it another run.

    Parameters
    ----------
    config : Config
        With which the run is to continue.
    saved : Mapping[str, Scalar]
        Every key with which it ran so far.
    rounds_done : int
        The rounds that it has finished.

    Raises
    ------
    ConfigError
        Names each such key.
    """
    was: dict[str, Scalar] = {**Config().to_flat(), **saved}
    now = config.to_flat()
    faults = [
        f"{key} = {now.get(key)!r}, so far {was[key]!r}"
        for key in was
        if was[key] != now.get(key) and not _may_change(key, now)
    ]
    if config.num_server_rounds < rounds_done:
        faults.append(
            f"num-server-rounds = {config.num_server_rounds}, but {rounds_done} are finished"
        )
    if faults:
        directory = RunDirectory(Path(config.resume))
        raise ConfigError(
            "\n  ".join(
                [
                    f"The run in '{config.resume}' cannot continue as another run:",
                    *faults,
                    f"Leave these keys as they are. {', '.join(_MAY_CHANGE)} and the keys of "
                    f"[{'] and ['.join(_MAY_CHANGE_SECTIONS)}] may change; num-server-rounds only "
                    "where no learning rate follows a cosine over all rounds. For flwr run, give "
                    f"{directory.resume_path} as --run-config.",
                ]
            )
        )


def _may_change(key: str, now: Mapping[str, Scalar]) -> bool:
    if key == "num-server-rounds":
        return "cosine" not in (now["learning-rate-schedule"], now["server.learning-rate-schedule"])
    section = key.partition(".")[0]
    return key in (*_PLACE, *_MAY_CHANGE) or section in _MAY_CHANGE_SECTIONS


def _check_place(asked: Config, place: Mapping[str, str]) -> None:
    for key, value in place.items():
        if asked.to_flat()[key] != value:
            raise ConfigError(
                f"{key} = {asked.to_flat()[key]!r}: a run continues in its own directory, "
                f"'{asked.resume}'. Leave {key} out. You may move the directory before."
            )


def checkpoint_of(state: Snapshot, config: Config, inputs: Snapshot) -> Snapshot:
    """Return the content of a checkpoint: a run's state, and what shows that it fits a run."""
    return {
        "format": _FORMAT,
        "versions": _versions(),
        "config": config.to_flat(),
        "inputs": inputs,
        **state,
    }


def last_state(config: Config, given: Collection[str] = ()) -> Snapshot | None:
    """Return the state from which a run continues; None for a run that begins.

    Parameters
    ----------
    config : Config
        The run's configuration.
    given : Collection[str]
        The arguments of `simulate` that give it objects.

    Raises
    ------
    FedSplitError
        If the checkpoint is that of another run, or cannot be read, or objects are lacking.
    """
    if not config.resume:
        return None
    check_given(config, given)
    directory = RunDirectory(Path(config.resume))
    process, checkpoints = directory.last_process(), directory.checkpoints
    if process is not None and "callbacks" in process.given and "callbacks" not in given:
        _logger.warning(
            "The callbacks (%s), which simulate() was given when the run began, are not called. "
            "To have them called: %s",
            *(process.given["callbacks"], directory.command_to_continue(config.to_flat())),
        )
    last = checkpoints.last()
    if last is None:
        return None
    server_round, values = last
    if values.get("format") != _FORMAT:
        raise RunError(
            f"The checkpoints in '{checkpoints.folder}' have the format {values.get('format')!r}, "
            f"and this version of fedsplit reads {_FORMAT}. Continue with the version that wrote "
            f"them ({values.get('versions')})."
        )
    check_same_run(config, values["config"], server_round)
    for package, then in values["versions"].items():
        if then != (now := _versions().get(package)):
            _logger.warning(
                "The run began with %s %s and continues with %s: the last bits of its results may "
                "differ from those of a run that was not interrupted.",
                *(package, then, now),
            )
    return checkpoints.load_last()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("torch", "flwr", "transformers")}
