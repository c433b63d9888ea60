"""Reports as Markdown: the tables of the page, and links to image files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedsplit.names import printable
from fedsplit.report.page import Header, Headline, Notice, Section
from fedsplit.report.tables import Table
from fedsplit.results.text import escaped


def to_markdown(title: str, header: Header, sections: Sequence[Section]) -> str:
    """Return a report as Markdown: headline, pictures, tables, facts."""
    lines = [f"# {escaped(title)}", "", escaped(header.lead), ""]
    for notice in header.notices:
        lines += [*_notice(notice), ""]
    for headline in header.headlines:
        lines += [*_headline(headline), ""]
    if header.how_to_read:
        lines += [escaped(header.how_to_read), ""]
    for section in sections:
        if images := [image for image in section.images if image.is_file()]:
            lines += [f"## {section.title}", "", *_text(section)]
            for image in images:
                lines += [f"![{section.title}]({image.name})", ""]
    lines += ["## Tables", ""]
    for section in sections:
        if section.tables:
            lines += [f"### {section.title}", ""]
            lines += [] if any(image.is_file() for image in section.images) else _text(section)
            for table in section.tables:
                lines += [*table_lines(table), ""]
    lines += ["## Facts", ""]
    lines += [f"- {name}: {escaped(value)}" for name, value in header.facts.items()] + [""]
    if header.command:
        lines += ["To make it again:", "", f"    {printable(header.command)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _text(section: Section) -> list[str]:
    return [escaped(section.text), ""] if section.text else []


def _notice(notice: Notice) -> Iterator[str]:
    yield f"**{escaped(notice.text)}**"
    if notice.items:
        yield ""
        for name, more in notice.items.items():
            yield f"- `{name}`: {escaped(' '.join(more.split()))}"
    if notice.command:
        yield ""
        yield f"    {printable(notice.command)}"


def _headline(headline: Headline) -> Iterator[str]:
    if headline.title:
        yield f"**{escaped(headline.title)}**"
        yield ""
    for figure in headline.figures:
        note = f" ({escaped(figure.note)})" if figure.note else ""
        yield f"- {escaped(figure.name)}: **{escaped(figure.value)}**{note}"


def table_lines(table: Table) -> Iterator[str]:
    """Yield the caption and the rows of a table."""
    yield f"{escaped(table.caption)}:"
    yield ""
    yield f"| {' | '.join(map(escaped, table.header))} |"
    yield "|---" + "|---:" * (len(table.header) - 1) + "|"
    for row in table.rows:
        yield f"| {' | '.join(escaped(cell.text) for cell in row)} |"
