"""Write the report of a directory: of a comparison, or of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedsplit.errors import ConfigError, cannot_write
from fedsplit.names import local_directory
from fedsplit.report.comparison import FILE_NAME
from fedsplit.report.gather import gather, read_run
from fedsplit.report.header import header_of
from fedsplit.report.html import to_html
from fedsplit.report.markdown import to_markdown
from fedsplit.report.results_csv import results_csv
from fedsplit.report.run_header import run_header
from fedsplit.report.run_sections import run_sections
from fedsplit.report.sections import sections_of
from fedsplit.results.run_directory import RunDirectory


def write_report(directory: str | Path) -> list[Path]:
    """Write the report of a comparison or run into its own directory.

    Returns
    -------
    list[Path]
        The written files: ``results.csv``, ``report.md`` and ``report.html`` for a comparison, the
        last two for a run.

    Raises
    ------
    ConfigError
        If the directory is neither a comparison's nor that of a run with a finished round, or its
        files hold what fedsplit does not write.
    RunError
        If a file cannot be written.
    """
    folder = local_directory(directory)
    if folder is not None and (folder / FILE_NAME).is_file():
        return _write(folder.absolute(), _of_comparison(folder))
    if folder is not None and RunDirectory(folder).rounds_path.is_file():
        return _write(folder.absolute(), _of_run(folder))
    what = "holds no" if folder else "is no directory of a"
    raise ConfigError(
        f"'{directory}' {what} comparison ({FILE_NAME}) or run with a finished round "
        "(rounds.jsonl). Give a directory that 'fedsplit compare' or 'fedsplit run' has made."
    )


def _of_comparison(directory: Path) -> dict[str, str]:
    gathered = gather(directory)
    title, header = gathered.comparison.name, header_of(gathered)
    return {
        "results.csv": results_csv(gathered),
        "report.md": to_markdown(title, header, sections_of(gathered, drawn=False)),
        "report.html": to_html(title, header, sections_of(gathered, drawn=True)),
    }


def _of_run(directory: Path) -> dict[str, str]:
    record = read_run(directory)
    title, header = record.directory.name, run_header(record)
    return {
        "report.md": to_markdown(title, header, run_sections(record, drawn=False)),
        "report.html": to_html(title, header, run_sections(record, drawn=True)),
    }


def _write(directory: Path, files: Mapping[str, str]) -> list[Path]:
    try:
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(directory / name, error) from None
    return [directory / name for name in files]
