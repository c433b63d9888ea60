"""Copy the tables and pictures of a comparison to docs/results.

uv run --no-sync python docs/make_results.py runs/split-vs-full [NAME]

writes docs/results/NAME-*.svg, and everything below the line `MARK` in docs/results/NAME.md. NAME
is that of the comparison by default. The text above that line is written by hand and is kept.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from fedsplit.drawing.palette import css_variables
from fedsplit.report.facts import NOT_KNOWN
from fedsplit.report.gather import Gathered, gather
from fedsplit.report.header import header_of
from fedsplit.report.markdown import to_markdown
from fedsplit.report.pictures import BY_BYTES, BY_ROUND, accuracy
from fedsplit.report.sections import sections_of

RESULTS = Path(__file__).with_name("results")
MARK = "<!-- from here on written by docs/make_results.py -->\n"


def main() -> None:
    """Write the tables and pictures of the comparison that the command line names."""
    directory = Path(sys.argv[1])
    gathered = gather(directory)
    name = sys.argv[2] if len(sys.argv) > 2 else gathered.comparison.name
    for kind, axis in {"by-round": BY_ROUND, "by-bytes": BY_BYTES}.items():
        for setting, picture in zip(gathered.settings, accuracy(gathered, axis), strict=True):
            path = RESULTS / f"{name}-{kind}-{_word(setting)}.svg"
            path.write_text(_alone(picture.svg), encoding="utf-8")
    page = RESULTS / f"{name}.md"
    above = page.read_text(encoding="utf-8").partition(MARK)[0] if page.is_file() else ""
    page.write_text(above + MARK + "\n" + _tables(gathered), encoding="utf-8")


def _tables(gathered: Gathered) -> str:
    header = header_of(gathered)
    # The directory of the machine that ran it is of no interest.
    command = re.sub(r" --output-dir \S+", "", header.command)
    facts = {name: value for name, value in header.facts.items() if value != NOT_KNOWN}
    header = replace(header, command=command, facts=facts)
    text = to_markdown("", header, sections_of(gathered, drawn=False))
    # Neither is where its checkout lay.
    return text.partition("\n")[2].lstrip().replace(f"{RESULTS.parents[1].resolve()}/", "")


def _word(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-") or "all"


def _alone(svg: str) -> str:
    """Return the picture of a page as a file, with the light and dark colours of the page."""
    light, dark = css_variables(dark=False), css_variables(dark=True)
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"
    paper = "svg{background:var(--paper)}</style>"
    return re.sub(r"(<svg [^>]*>)", lambda found: found[1] + style + paper, svg, count=1)


if __name__ == "__main__":
    main()
