"""Numbers as people read them. A missing value is a dash."""

from __future__ import annotations

import re

from fedsplit.fields import BuiltIn, Field
from fedsplit.names import printable

NOTHING = "-"
_WITH_PREFIX = ("B", "FLOP")
"""Units that take a decimal prefix: kB, MB, GFLOP."""


def shown(field: Field, value: float | None) -> str:
    """Return a field's value with its unit, as all tables show it.

    Bytes, FLOPs and counts of parameters have three digits and a decimal prefix; scores, such as
    losses and accuracies, have four decimals; declared metrics have four significant digits.
    """
    if value is None:
        return NOTHING
    form = "auto" if field.unit in _WITH_PREFIX else "number"
    if isinstance(field, BuiltIn):
        form = field.form
    if form == "score":
        return fixed(value, 4)
    if form == "count":
        return fixed(value, 0)
    if form == "number":
        return f"{value:.4g} {field.unit}".rstrip()
    return duration(value) if field.unit == "s" else with_unit(value, field.unit)


def counted(number: int, thing: str) -> str:
    """Return a number of things, with an s unless it is one."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def fixed(value: float | None, digits: int) -> str:
    """Return a number with `digits` decimals, from a million on as ``1.2e+12``."""
    if value is None:
        return NOTHING
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:.{digits}f}"


def with_unit(value: float | None, unit: str) -> str:
    """Return a number with three digits and a decimal prefix, such as ``12.3 MB``."""
    if value is None:
        return NOTHING
    for exponent, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**exponent:
            scaled = value / 10**exponent
            digits = max(0, 2 - (scaled >= 9.995) - (scaled >= 99.95))
            return f"{scaled:.{digits}f} {prefix}{unit}".rstrip()
    return f"{value:.0f} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """Return a duration with its unit: ``42 ms``, ``12.3 s``, ``5:46 min``, ``1:05:46 h``."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{minutes(seconds)} {'min' if round(seconds) < 3600 else 'h'}"


def minutes(seconds: float | None) -> str:
    """Return a duration as m:ss, or as h:mm:ss from one hour on."""
    if seconds is None:
        return NOTHING
    total = round(seconds)
    hours, rest = divmod(total, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"


def escaped(text: str) -> str:
    """Return a text without Markdown or HTML, on one line: their characters are escaped."""
    line = printable(" ".join(text.splitlines()))
    return re.sub(r"([\\`*_<>|\[\]#&~$])", r"\\\1", line)
