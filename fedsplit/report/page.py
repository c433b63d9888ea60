"""What a page is made of: a header with the headline, and sections of pictures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedsplit.report.picture import Picture
from fedsplit.report.tables import Table


@dataclass(frozen=True)
class Figure:
    """A number of the headline.

    Attributes
    ----------
    value, name : str
        The number with its unit, and what it measures.
    note : str
        What it is to be compared with. May be empty.
    """

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """Numbers that belong together.

    Attributes
    ----------
    title : str
        What they are the numbers of. May be empty.
    figures : Sequence[Figure]
        Accuracy first.
    """

    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Notice:
    """What a reader must know before the numbers: runs that failed or have not finished.

    Attributes
    ----------
    text : str
        A sentence.
    items : Mapping[str, str]
        What it is about -> more of it.
    command : str
        What to do. May be empty.
    """

    text: str
    items: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True)
class Header:
    """The beginning of a report, and the facts at its end.

    Attributes
    ----------
    lead : str
        What was run or compared, in a sentence.
    command : str
        The command that makes it again.
    facts : Mapping[str, str]
        Name -> value: keys, versions, place and time.
    headlines : Sequence[Headline]
        The most important numbers.
    notices : Sequence[Notice]
        What is missing.
    how_to_read : str
        What the numbers mean.
    """

    lead: str
    command: str
    facts: Mapping[str, str] = field(default_factory=dict)
    headlines: Sequence[Headline] = field(default_factory=list)
    notices: Sequence[Notice] = field(default_factory=list)
    how_to_read: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report. All pictures of a page come before all tables.

    Attributes
    ----------
    title, text : str
        Its heading, and what to know before reading it.
    pictures : Sequence[Picture]
        The pictures of the page.
    images : Sequence[Path]
        Files beside the report that Markdown shows instead.
    tables : Sequence[Table]
        The tables.
    """

    title: str
    text: str = ""
    pictures: Sequence[Picture] = field(default_factory=list)
    images: Sequence[Path] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The anchor of the section."""
        return self.title.lower().replace(" ", "-")
