"""The entry point: the list of commands, and how an error is shown."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import click
import typer
import typer.core

from fedsplit.blame import users_frame
from fedsplit.cli.project import certificates, new, stop
from fedsplit.cli.results import compare, predict, report, runs
from fedsplit.cli.run import run
from fedsplit.errors import (
    FedSplitError,
    InterruptionError,
    RunError,
    sentence,
    too_many_files,
)
from fedsplit.names import printable_lines
from fedsplit.plan.command import plan
from fedsplit.run_log import PrintableFormatter

typer.core.HAS_RICH = False  # with it, plain help has a backslash before every bracket
app = typer.Typer(
    name="fedsplit",
    help="Federated split learning of vision transformers on Flower.",
    no_args_is_help=True,
    suggest_commands=False,  # click does
    rich_markup_mode=None,  # it would take "[default: ...]" for markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (new, run, runs, stop, plan, compare, report, predict, certificates):
    app.command()(command)


def _show_version(asked: bool) -> None:
    if asked:
        found = ", ".join(f"{name} {version(name)}" for name in ("fedsplit", "flwr", "torch"))
        print(f"{found}, Python {platform.python_version()}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the versions in use."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error is one paragraph on stderr."""
    if logging.lastResort is not None:  # it shows what is warned of before a run has its log
        logging.lastResort.setFormatter(PrintableFormatter())
    with _interruptible():
        try:
            # In standalone mode Typer would print an error in the arguments as a box.
            sys.exit(app(standalone_mode=False))
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            if error.format_message():
                said = sentence(error.format_message())
                context = error.ctx if isinstance(error, click.UsageError) else None
                path = context.command_path if context else "fedsplit"
                _print(f"{said} See '{path} --help'.")
            sys.exit(error.exit_code)
        except FedSplitError as error:
            _print(str(error))
            sys.exit(error.exit_code)
        except Exception as error:
            if os.environ.get("FEDSPLIT_TRACEBACK"):
                raise
            if remedy := too_many_files(error):
                _print(f"{error}. {remedy}")
            elif getattr(error, "errno", None) == ENOSPC:  # standard output may be a file
                _print(f"{error}. Free space on its disk.")
            elif frame := users_frame(error):
                said = sentence(f"{type(error).__name__}: {error}")
                _print(
                    f"{frame.filename}, line {frame.lineno}, in {frame.name}: {said} "
                    "FEDSPLIT_TRACEBACK=1 shows the whole traceback."
                )
            else:
                _print(
                    f"unexpected {type(error).__name__}: {error}. This is a defect; set "
                    "FEDSPLIT_TRACEBACK=1 to see where it was raised, and report it."
                )
            sys.exit(RunError.exit_code)


def _print(text: str) -> None:
    print(f"fedsplit: {printable_lines(text)}", file=sys.stderr)  # noqa: T201


@contextmanager
def _interruptible() -> Iterator[None]:
    """End a run in order at the first Ctrl-C or SIGTERM, and the process at once at the second."""
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os.write(2, b"fedsplit: left at once. 'fedsplit runs' shows what is kept.\n")
            os._exit(InterruptionError.exit_code)
        asked = True
        signal.default_int_handler(number, frame)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number == signal.SIGTERM:  # a job in the background
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
