"""Colours, marks and dashes. No drawing library is loaded here."""

from __future__ import annotations

from collections.abc import Mapping

COLOURS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171a"),
    "panel": ("#f6f7f8", "#1d2125"),
    "ink": ("#1b1f23", "#e8eaed"),
    "muted": ("#57606a", "#a4adb6"),
    "grid": ("#dfe3e6", "#343a40"),
    "warn": ("#8a2b00", "#ffb38a"),
    "warn-panel": ("#fff1e8", "#3a2013"),
    # The colours of Okabe and Ito, with the light ones darkened to stand out on white.
    "c0": ("#0072b2", "#56a9e4"),
    "c1": ("#d55e00", "#ff8a4a"),
    "c2": ("#009e73", "#33c79c"),
    "c3": ("#b8578f", "#e59ac6"),
    "c4": ("#a38a00", "#e8d44d"),
    "c5": ("#3a9bd0", "#a5d8f5"),
    "c6": ("#6e7781", "#98a1aa"),
}
"""Name -> colour on light and on dark screens. Pictures are drawn with the light ones; a page gives
each name its dark colour where the reader's screen is dark."""

PAPER, INK, MUTED, GRID = (COLOURS[name][0] for name in ("paper", "ink", "muted", "grid"))
SERIES = tuple(COLOURS[f"c{number}"][0] for number in range(7))
UPLINK, DOWNLINK = SERIES[0], SERIES[5]
_TRAFFIC: Mapping[str, tuple[str, str]] = {
    "cut": (UPLINK, DOWNLINK),
    "sync": (SERIES[1], SERIES[4]),
    "evaluate": (SERIES[6], SERIES[6]),
}
SIDES: Mapping[str, str] = {"client": SERIES[0], "server": SERIES[4]}

FONT_SIZE, SMALL = 10.0, 9.0
"""Points: of text, and of ticks and labels."""
MARKS = "os^DvPX<>ph*"
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # tell variants apart that share a colour
LINE_POINTS, MARK_POINTS = 1.6, 4.0


def looks(number: int) -> dict[str, object]:
    """Return how the line of this number looks, the same in every picture."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKS[number % len(MARKS)],
        "linestyle": DASHES[number // len(SERIES) % len(DASHES)],
        "linewidth": LINE_POINTS,
        "markersize": MARK_POINTS,
    }


def traffic_colour(key: str) -> str:
    """Return the colour of a field of bytes, by its key: purpose, direction, ``bytes``."""
    purpose, way = key.split("_")[:2]
    return _TRAFFIC[purpose][way == "downlink"]


def css_variables(*, dark: bool) -> str:
    """Return the colours as CSS variables, such as ``--ink: #1b1f23;``."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())
