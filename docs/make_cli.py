"""Write docs/cli.md from the command line's own help, or check that it is up to date.

uv run --no-sync python docs/make_cli.py            writes it
uv run --no-sync python docs/make_cli.py --check    exits 1 when it is stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

import click
import typer
from generated import write_or_check
from typer.main import get_params_from_function

from fedsplit.cli.main import app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

This page is generated from the program's own help. Do not edit it. Generate it with

    uv run --no-sync python docs/make_cli.py

and check it with `--check`, which exits with 1 if it is out of date. What the exit codes mean is in
[guarantees.md](guarantees.md#errors-and-exit-codes).

"""
HIDDEN = ("install_completion", "show_completion", "help")


def page() -> str:
    """Return the text of docs/cli.md."""
    return HEAD + "\n".join(_sections(typer.main.get_command(app), "fedsplit")).rstrip() + "\n"


def _sections(command: click.Command, name: str, parent: click.Context | None = None) -> list[str]:
    context = click.Context(command, parent=parent, info_name=name.rpartition(" ")[2])
    lines = [f"## {name}", "", _text(command.help or ""), ""]
    lines += [f"    {name} {' '.join(command.collect_usage_pieces(context))}", ""]
    lines += _arguments(command, context)
    lines += _options(command, context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                lines += _sections(found, f"{name} {child}", context)
    return lines


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    shown = [p for p in command.params if p.param_type_name == "option" and p.name not in HIDDEN]
    records = [record for param in shown if (record := param.get_help_record(context))]
    if records:
        yield from ("| option | meaning |", "|---|---|")
        yield from (f"| {_code(names)} | {_cell(_meaning(about))} |" for names, about in records)
        yield ""


def _arguments(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the table of a command's arguments, with the help that is written in the sources.

    Typer 0.20 with click 8.5 loses the help of arguments.
    """
    written = get_params_from_function(command.callback) if command.callback else {}
    rows = [
        f"| {_code(param.make_metavar(context))} | {_cell(written[param.name].default.help)} |"
        for param in command.params
        if param.param_type_name == "argument"
    ]
    if rows:
        yield from ("| argument | meaning |", "|---|---|", *rows, "")


def _meaning(about: str) -> str:
    """Return the help of an option: its default once, in words where the help has them."""
    text = _text(about).replace("\\[", "[")
    in_words = re.compile(r"(\[default: [^]]*)\] \[(?:default: [^];]*(?:; )?)?")
    return in_words.sub(r"\1; ", text).replace("; ]", "]")


def _text(help_text: str) -> str:
    """Return a help text with the wrapping of its paragraphs undone."""
    paragraphs = re.split(r"\n\s*\n", help_text.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _code(text: str) -> str:
    """Return code for a cell of a table. In backticks, a bar would end the cell on GitHub."""
    return f"<code>{escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page()))
