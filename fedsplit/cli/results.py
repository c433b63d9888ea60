"""The commands that read or compare results: ``predict``, ``compare``, ``report``, ``runs``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsplit.app_project import AppProject
from fedsplit.errors import RunError


def predict(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ],
    best: Annotated[
        bool, typer.Option("--best", help="Take the weights after the best round, not the last.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="As model.trust = true: code that it names is run.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all classes as JSON instead of a table.")
    ] = False,
) -> None:
    """Show what the model of a run says of images: the most probable classes."""
    from fedsplit.predict import predict as predict_all  # loads torch: not for --help
    from fedsplit.predict import prediction_table, to_json

    found = predict_all(run_dir, images, best=best, trust=trust)
    print(to_json(found) if as_json else prediction_table(found))  # noqa: T201


def compare(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A comparison's TOML file.")],
    output_dir: Annotated[
        str, typer.Option(help="Where the comparison's directory is made.")
    ] = "runs",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
) -> None:
    """Run every variant of a comparison with every seed, and report how they differ.

    Finished runs are not repeated, so the same command continues an interrupted comparison.
    """
    from rich.console import Console

    from fedsplit.compare.runner import compare as run_all
    from fedsplit.compare.runs import make_plan  # loads torch: not for --help
    from fedsplit.report.gather import gather
    from fedsplit.report.terminal import terminal_table

    project = AppProject.find(Path.cwd(), Path(config).parent)
    if project is not None:
        project.make_importable(by_children=True)
    asked = make_plan(config, output_dir, None if project is None else project.config)
    command = asked.command(jobs)
    comparison = run_all(asked, jobs=jobs, command=command, console=Console(stderr=True))
    print(terminal_table(gather(asked.directory)), end="\n\n")  # noqa: T201
    _report(asked.directory)
    if comparison.failures:
        names = ", ".join(comparison.failures)
        raise RunError(
            f"{len(comparison.failures)} of {len(comparison.runs)} runs failed ({names}, in "
            f"'{asked.directory}'); their logs are in '{asked.directory / 'logs'}'. Give the same "
            "command again to retry them."
        )


def report(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Directory of a comparison or a run."),
    ],
) -> None:
    """Write the report of a comparison or of a run again."""
    _report(directory)


def _report(directory: Path) -> None:
    from fedsplit.report.write import write_report

    for path in write_report(directory):
        print(path)  # noqa: T201


def runs(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where run directories are.")
    ] = Path("runs"),
) -> None:
    """List runs: state, rounds, accuracy and where they are."""
    from fedsplit.results.listing import list_runs, runs_table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(runs_table(list_runs(directory), directory, width=width))  # noqa: T201
