"""What a page shows of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes
    ----------
    caption : str
        The text below it.
    svg : str
        The picture itself.
    """

    caption: str
    svg: str


def note_on_same(groups: Sequence[Sequence[str]]) -> str:
    """Return a sentence on lines that lie on each other; empty if there are none."""
    if not groups:
        return ""
    said = "; ".join(" and ".join([", ".join(group[:-1]), group[-1]]) for group in groups)
    return f". Lines that lie on each other alternate their dashes: {said}"
