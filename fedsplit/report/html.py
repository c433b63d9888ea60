"""Reports as one HTML file each, that fetches nothing."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsplit.report.gather import Gathered
from fedsplit.report.sections import facts_of, sections_of


def comparison_html(gathered: Gathered) -> str:
    """Return a comparison's report as a page."""
    return _render(
        "comparison.html.j2",
        title=gathered.comparison.name,
        facts=facts_of(gathered),
        sections=[s for s in sections_of(gathered, drawn=True) if s.pictures or s.tables],
    )


def _render(template: str, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("fedsplit.report"),
        autoescape=True,  # labels are people's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
