"""Write a directory's report: of a comparison, or of one run."""

from __future__ import annotations

from pathlib import Path

from fedsplit.report.csv import write_results_csv
from fedsplit.report.gather import gather


def write_report(directory: Path) -> list[Path]:
    """Write the report into the directory that it is about.

    Returns
    -------
    list[Path]
        The files written.

    Raises
    ------
    ConfigError
        If the directory is neither a comparison's nor a finished run's.
    """
    gathered = gather(directory)
    table = gathered.directory / "results.csv"
    write_results_csv(gathered, table)
    return [table]
