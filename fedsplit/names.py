"""Names that people choose: whether a name is a local folder, and how to print it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST_FILE_NAME_BYTES = 255


def local_directory(name: str | Path) -> Path | None:
    """Return the directory of this name with ``~`` expanded, or None if there is none.

    A name that no file can have (too long, with a NUL, below the home of an unknown user) gives
    None too, where `Path.is_dir` and `Path.expanduser` would raise.
    """
    try:
        path = Path(name).expanduser()
        return path if str(name) and path.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a name without a slash was probably meant to be."""
    found = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8)
    return found[0] if found and "/" not in name else None


def path_fault(name: str) -> str | None:
    """Return why a text cannot be the path of a file, or None if it can."""
    if "\0" in name:
        return "must not contain the character NUL"
    if any(len(os.fsencode(part)) > LONGEST_FILE_NAME_BYTES for part in name.split("/")):
        return f"must not contain a file name of more than {LONGEST_FILE_NAME_BYTES} bytes"
    try:
        Path(name).expanduser()
    except RuntimeError:
        return "must not begin with the home of a user who does not exist on this machine"
    return None


def printable(name: str) -> str:
    """Return a name on one line, with U+FFFD in place of characters that cannot be printed."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def printable_lines(text: str) -> str:
    """Return a text whose lines are `printable`; tabs and line feeds stay.

    A name that a stranger chose can hold codes that move a terminal's cursor or change its title.
    """
    plain = text.replace("\n", "").replace("\t", "")
    if plain.isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def some(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
