"""Reports as Markdown: the tables of the page, and links to image files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fedsplit.report.sections import Header, Section
from fedsplit.report.tables import Table


def to_markdown(title: str, header: Header, sections: Sequence[Section]) -> str:
    """Return a report as Markdown."""
    lines = [f"# {escaped(title)}", "", escaped(header.lead), "", f"    {header.command}", ""]
    lines += [f"- {name}: {escaped(value)}" for name, value in header.details.items()] + [""]
    if header.how_to_read:
        lines += [header.how_to_read, ""]
    if header.failed:
        lines += ["These runs failed and are missing below:", ""]
        for name, reason in header.failed.items():
            lines.append(f"- `{name}`: {escaped(' '.join(reason.split()))}")
        lines.append("")
    for section in sections:
        images = [image for image in section.images if image.is_file()]
        if section.tables or images:
            lines += [f"## {section.title}", ""]
            lines += [escaped(section.text), ""] if section.text else []
            for image in images:
                lines += [f"![{section.title}]({image.name})", ""]
            for table in section.tables:
                lines += [*table_lines(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def table_lines(table: Table) -> Iterator[str]:
    """Yield the caption and the rows of a table."""
    yield f"{escaped(table.caption)}:"
    yield ""
    yield f"| {' | '.join(map(escaped, table.header))} |"
    yield "|---" + "|---:" * (len(table.header) - 1) + "|"
    for row in table.rows:
        yield f"| {' | '.join(escaped(cell.text) for cell in row)} |"


def escaped(text: str) -> str:
    """Return a text without Markdown or HTML: their characters are escaped."""
    return re.sub(r"([\\`*_<>|\[\]#&~$])", r"\\\1", text)
