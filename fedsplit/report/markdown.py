"""Reports as Markdown: what HTML has, but for the pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedsplit.report.gather import Gathered
from fedsplit.report.sections import facts_of, sections_of
from fedsplit.report.tables import Table


def comparison_markdown(gathered: Gathered) -> str:
    """Return a comparison's report as Markdown."""
    facts = facts_of(gathered)
    lines = [f"# {escaped(gathered.comparison.name)}", "", escaped(facts.lead), ""]
    lines += [f"    {facts.command}", ""]
    lines += [f"- {name}: {escaped(value)}" for name, value in facts.details.items()]
    lines += ["", facts.how_to_read, ""]
    if facts.failed:
        lines += ["Failed, and missing from what follows:", ""]
        for name, reason in facts.failed.items():
            lines.append(f"- `{name}`: {escaped(' '.join(reason.split()))}")
        lines.append("")
    for section in sections_of(gathered, drawn=False):
        if section.tables:
            lines += [f"## {section.title}", "", section.text, ""]
            for table in section.tables:
                lines += [*table_lines(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def table_lines(table: Table) -> Iterator[str]:
    """Yield a table's caption, and its rows."""
    yield f"{escaped(table.caption)}:"
    yield ""
    yield f"| {' | '.join(map(escaped, table.header))} |"
    yield "|---" + "|---:" * (len(table.header) - 1) + "|"
    for row in table.rows:
        yield f"| {' | '.join(escaped(cell.text) for cell in row)} |"


def escaped(text: str) -> str:
    """Return a text in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*_<>|\[\]#&~$])", r"\\\1", text)
