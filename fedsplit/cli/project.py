"""Commands about a project: make one, make certificates for it, end its SuperLink."""

from __future__ import annotations

from collections.abc import Sequence
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
        print(_nothing_ended(everything, [link.project for link in running()]))  # noqa: T201


def _nothing_ended(everything: bool, others: Sequence[Path]) -> str:
    """Say that no SuperLink was ended, and for which other projects one still runs."""
    if everything:
        return "No SuperLink runs."
    said = "No SuperLink of this project runs."
    if others:
        # A config file outside an app runs in fedsplit's own app: its SuperLink is not found there.
        named = ", ".join(f"'{project}'" for project in others)
        said += f" One runs for {named}: 'fedsplit stop' in that folder ends it, or with --all."
    return said


def certificates(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where they are written.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Name or IP address by which clients reach the server; repeatable."
        ),
    ] = None,
    clients: Annotated[
        int, typer.Option(min=0, help="Number of clients that get one, with those that have it.")
    ] = 0,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they are valid.")] = 365,
) -> None:
    """Make a CA, a server's certificate and clients' certificates, for tests and small sites.

    A CA that is there already issues the new ones; nothing is replaced.
    """
    from fedsplit.certificates import make_certificates

    if not host and not clients:
        raise typer.BadParameter(
            "name what to make: --host NAME for a server's certificate, --clients N for clients'"
        )
    made = make_certificates(directory, hosts=host or [], num_clients=clients, days=days)
    for path in made:
        print(path)  # noqa: T201
    print(  # noqa: T201
        "Each machine gets ca.pem and its own pair. Keep ca.key off all of them: whoever has it "
        "can issue certificates."
    )
