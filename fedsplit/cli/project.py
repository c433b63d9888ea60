"""The commands about a project: ``new`` makes one, ``stop`` ends its SuperLink."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedsplit.app_project import AppProject


class TemplateName(StrEnum):
    """What a new app shows."""

    CLASSIFICATION = "classification"
    OWN_STRATEGY = "own-strategy"
    OWN_MODEL = "own-model"


def new(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The app's folder.")],
    template: Annotated[
        TemplateName, typer.Option(help="What it shows.")
    ] = TemplateName.CLASSIFICATION,
) -> None:
    """Make a Flower app of your own, which depends on fedsplit."""
    from fedsplit.new.project import make_project

    print(make_project(directory, template.value))  # noqa: T201


def stop(
    everything: Annotated[
        bool, typer.Option("--all", help="End those of all your projects.")
    ] = False,
) -> None:
    """End the SuperLink of this project, and the runs on it."""
    from fedsplit.superlink import SuperLink, running

    if everything:
        found = list(running())
    else:
        project = AppProject.find(Path.cwd())
        found = [] if project is None else [SuperLink(project.folder)]
    ended = [superlink for superlink in found if superlink.end()]
    for superlink in ended:
        print(f"Ended the SuperLink of '{superlink.project}'.")  # noqa: T201
    if not ended:
        print(  # noqa: T201
            "No SuperLink runs." if everything else "No SuperLink of this project runs."
        )
