"""Pictures as SVG whose colours and text follow the colour scheme of the page.

matplotlib writes fixed colours. Those of the palette are replaced by CSS variables of the page, so
that one picture suits light and dark schemes, screen and paper.
"""

from __future__ import annotations

import io
import re

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fedsplit.drawing.palette import COLOURS

WIDTH_INCHES = 5.2  # 374 units, the width of a phone: letters keep their size there
_NAMES = {light: name for name, (light, _) in COLOURS.items()}


def new_figure(height_inches: float) -> Figure:
    """Return an empty figure as wide as a phone."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    return figure


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Return the picture as an element for a page.

    Parameters
    ----------
    figure : Figure
        From `new_figure`.
    name : str
        The beginning of every id in it, so that no two pictures of a page share an id.
    alt : str
        A description for readers who cannot see it.
    """
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
    name = _NAMES.get(match[0])
    return f"var(--{name})" if name else match[0]


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
