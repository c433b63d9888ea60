"""The runs in a folder: ``fedsplit runs``."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.names import local_directory, printable
from fedsplit.results.files import read_lines
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.text import NOTHING, fixed

_OTHER_COLUMNS = 60  # of the table, beside the names of strategies


@dataclass(frozen=True)
class ListedRun:
    """One run.

    Attributes
    ----------
    path : Path
        Its directory.
    state : str
        ``running``, ``finished``, ``failed``, or ``interrupted``: no process makes it, and it has
        neither a summary nor an error. ``damaged``: its rounds.jsonl cannot be read, as after a
        power cut; if it has checkpoints, the run can continue.
    rounds : str
        How many of how many are done.
    accuracy : float | None
        After the last of them, on the test images.
    strategy : str
        By name.
    """

    path: Path
    state: str
    rounds: str
    accuracy: float | None
    strategy: str


def list_runs(folder: Path) -> list[ListedRun]:
    """Return the runs in a folder and its sub-folders, the newest last.

    Raises
    ------
    ConfigError
        If there is no such folder.
    """
    if local_directory(folder) is None:
        raise ConfigError(
            f"There are no runs yet: there is no folder '{folder}'. Runs of another output-dir: "
            "fedsplit runs DIR"
        )
    regular = (path for path in folder.rglob("config.toml") if path.is_file())
    configs = sorted(regular, key=lambda path: path.stat().st_mtime)
    found = (_listed(RunDirectory(path.parent)) for path in configs)
    return [run for run in found if run is not None]


def runs_table(runs: list[ListedRun], folder: Path, *, width: int | None = None) -> str:
    """Return the runs as a table.

    Parameters
    ----------
    runs : list[ListedRun]
        What `list_runs` has found.
    folder : Path
        Where.
    width : int | None
        In columns: longer names of directories are folded, if there is room for all columns. None =
        every run has one line, as programs read it.
    """
    if not runs:
        return f"No runs in '{folder}'."
    strategies = [printable(run.strategy.rpartition(":")[2]) for run in runs]
    if width is not None and width < _OTHER_COLUMNS + max(map(len, strategies)):
        width = None  # a terminal wraps lines; columns that do not fit would be left out
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("state", "strategy", "rounds", "accuracy", "run directory"):
        folds = name == "run directory" and width is not None
        side: Literal["left", "right"] = "right" if name == "accuracy" else "left"
        table.add_column(name, no_wrap=not folds, overflow="fold", justify=side)
    for run, strategy in zip(runs, strategies, strict=True):
        where = printable(str(run.path.relative_to(folder.absolute())))
        table.add_row(run.state, strategy, run.rounds, _accuracy(run.accuracy), where)
    file = StringIO()
    longest = 80 + max(len(str(run.path)) + len(run.strategy) for run in runs)
    Console(file=file, width=width or longest, color_system=None, markup=False, emoji=False).print(
        table
    )
    lines = (line.rstrip() for line in file.getvalue().splitlines())
    return "\n".join([*lines, f" in {printable(str(folder.absolute()))}"])


def _accuracy(value: float | None) -> str:
    return NOTHING if value is None else fixed(value, 4)


def _listed(directory: RunDirectory) -> ListedRun | None:
    try:
        config = Config.load(directory.config_path)
    except ConfigError:
        return None  # another program's config.toml
    rows: list[dict[str, Any]] | None = None
    accuracy: float | None = None
    try:
        found = read_lines(directory.rounds_path)
        last = found[-1]["test_accuracy"] if found else None
        accuracy = None if last is None else float(last)
        rows = found
    except (KeyError, OSError, OverflowError, TypeError, ValueError):
        pass
    if directory.owner() is not None:
        state = "running"
    elif rows is None:
        state = "damaged"
    elif directory.summary_path.is_file():
        state = "finished"
    else:
        state = "failed" if directory.error_path.is_file() else "interrupted"
    return ListedRun(
        path=directory.path,
        state=state,
        rounds=f"{'?' if rows is None else len(rows)}/{config.num_server_rounds}",
        accuracy=accuracy,
        strategy=config.strategy,
    )
