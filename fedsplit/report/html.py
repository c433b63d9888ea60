"""Reports as HTML: one file that fetches nothing."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsplit.drawing.palette import css_variables
from fedsplit.report.page import Header, Section


def to_html(title: str, header: Header, sections: Sequence[Section]) -> str:
    """Return a report as a page."""
    environment = Environment(
        loader=PackageLoader("fedsplit.report"),
        autoescape=True,  # people choose labels and names
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        header=header,
        sections=[s for s in sections if s.pictures or s.tables],
        light=css_variables(dark=False),
        dark=css_variables(dark=True),
    )
