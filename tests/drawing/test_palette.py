from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fedsplit.drawing import palette
from fedsplit.fields import fields_shown_in, traffic_fields

SOURCES = Path(palette.__file__).parents[1]


def test_colours_are_written_in_the_palette_and_nowhere_else() -> None:
    """Break it: draw anything with a colour of its own, or give the page one."""
    files = [*SOURCES.rglob("*.py"), *SOURCES.rglob("*.j2")]
    assert {"plots.py", "plot.py", "bars.py", "view.py", "page.html.j2"} <= {f.name for f in files}
    found = {
        (path.name, colour)
        for path in files
        if path.name not in ("palette.py", "data.py")  # a config key has an example in hex
        for colour in re.findall(r"#[0-9a-fA-F]{6}\b", path.read_text(encoding="utf-8"))
    }
    # On paper, text is black and panels are white.
    assert {name for name, _ in found} <= {"page.html.j2"}
    assert {colour for _, colour in found} <= {"#000000", "#444444", "#cccccc", "#ffffff"}


def test_no_two_names_have_the_same_colour() -> None:
    """Break it: give ink and paper one colour; a picture of a page could not tell them apart."""
    for dark in (False, True):
        values = [pair[dark] for pair in palette.COLOURS.values()]
        assert len(set(values)) == len(values)


def test_every_field_of_bytes_has_a_colour() -> None:
    fields = (*fields_shown_in("traffic"), *traffic_fields("evaluate"))
    colours = {field.key: palette.traffic_colour(field.key) for field in fields}
    assert len(set(colours.values())) == 5  # evaluation has one, both ways


def test_variants_of_one_colour_have_other_marks_and_dashes() -> None:
    """Break it: give them the same dashes, or the same mark."""
    for number in range(7):
        same = [palette.looks(number + more) for more in (0, 7, 14)]
        assert len({str(look["color"]) for look in same}) == 1
        for what in ("marker", "linestyle"):
            assert len({str(look[what]) for look in same}) == 3


def test_a_run_loads_matplotlib_only_when_it_draws() -> None:
    check = (
        "import sys, fedsplit.drawing.lines, fedsplit.drawing.shards, fedsplit.drawing.confusion;"
        "print(sorted({'matplotlib', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
