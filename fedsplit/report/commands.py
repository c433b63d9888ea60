"""Commands of a page. They work as they are, from any folder, when they are copied."""

from __future__ import annotations

import shlex

from fedsplit.report.gather import RunRecord
from fedsplit.results.environment import at_first
from fedsplit.results.run_directory import RunDirectory


def again(record: RunRecord) -> str:
    """Return the command that makes a run again, in a new directory beside it."""
    words = ["fedsplit", "run", str(RunDirectory(record.directory).config_path)]
    if record.config.run_name:
        words += ["--set", "run-name="]  # its own name is taken
    if record.config.output_dir != str(record.directory.parent):
        words += ["--output-dir", str(record.directory.parent)]  # the directory was moved
    if at_first(record.summary["engine"]) == "inprocess":
        words += ["--engine", "inprocess"]
    return shlex.join(words)


def resume(record: RunRecord) -> str:
    """Return the command, or the call, that continues a run."""
    return RunDirectory(record.directory).command_to_continue(record.config.to_flat())
