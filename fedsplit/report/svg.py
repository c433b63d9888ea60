"""Pictures as SVG whose colours and text follow the colour scheme of the page.

matplotlib writes fixed colours. Those of `COLOURS` are replaced by CSS variables of the page, so
that one picture suits light and dark schemes, screen and paper.
"""

from __future__ import annotations

import io
import re

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# The colours that matplotlib draws with -> CSS variables of templates/page.html.j2.
INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0202{number:02x}" for number in range(7))
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
    colour: f"c{number}" for number, colour in enumerate(SERIES)
}
WIDTH_INCHES = 5.2  # 374 units, the width of a phone: letters keep their size there
FONT_SIZE = 10


def new_axes(height_inches: float, *, left: float, right: float) -> Axes:
    """Return the axes of a new figure: left and right margins in inches, the others fixed."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.add_axes(
        (
            left / WIDTH_INCHES,
            0.55 / height_inches,
            1 - (left + right) / WIDTH_INCHES,
            1 - 0.75 / height_inches,
        )
    )
    axes.patch.set_alpha(0.0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=FONT_SIZE - 1, pad=5)
    axes.tick_params(which="minor", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
    return axes


def to_svg(axes: Axes, name: str, alt: str) -> str:
    """Return the picture as an element for a page.

    Parameters
    ----------
    axes : Axes
        From `new_axes`.
    name : str
        The beginning of every id in it, so that no two pictures of a page share an id.
    alt : str
        A description for readers who cannot see it.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b", _variable, text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{_attribute(alt)}" ', text, count=1)


def _variable(match: re.Match[str]) -> str:
    name = COLOURS.get(match[0])
    return f"var(--{name})" if name else match[0]


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
