"""Commands of a page. They work as they are, from any folder, when they are copied."""

from __future__ import annotations

import shlex

from fedsplit.report.gather import RunRecord
from fedsplit.results.run_directory import RunDirectory


def again(record: RunRecord) -> str:
    """Return the command that makes a run again, in a new directory beside it."""
    words = ["fedsplit", "run", str(RunDirectory(record.directory).config_path)]
    if record.config.run_name:
        words += ["--set", "run-name="]  # its own name is taken
    if record.config.output_dir != str(record.directory.parent):
        words += ["--output-dir", str(record.directory.parent)]  # the directory was moved
    if record.summary["engine"] == "inprocess":
        words += ["--engine", "inprocess"]
    return shlex.join(words)


def resume(record: RunRecord) -> str:
    """Return the command that continues a run."""
    return shlex.join(["fedsplit", "run", "--resume", str(record.directory)])
