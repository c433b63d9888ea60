"""Write a directory's report: of a comparison, or of one run."""

from __future__ import annotations

from pathlib import Path

from fedsplit.errors import RunError
from fedsplit.report.gather import gather
from fedsplit.report.html import comparison_html
from fedsplit.report.markdown import comparison_markdown
from fedsplit.report.results_csv import write_results_csv


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
    RunError
        If a file cannot be written.
    """
    gathered = gather(directory)
    table = gathered.directory / "results.csv"
    page, text = table.with_name("report.html"), table.with_name("report.md")
    try:
        write_results_csv(gathered, table)
        text.write_text(comparison_markdown(gathered), encoding="utf-8")
        page.write_text(comparison_html(gathered), encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"The report in '{gathered.directory}' cannot be written: {error.strerror or error}. "
            "Free space on its disk, and try 'fedsplit report' again."
        ) from None
    return [table, text, page]
