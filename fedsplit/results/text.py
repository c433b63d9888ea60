"""Numbers as people read them; what does not exist is a dash."""

from __future__ import annotations

NOTHING = "-"


def fixed(value: float | None, digits: int) -> str:
    """Return a number with so many decimals, and huge ones as ``1.2e+12``."""
    if value is None:
        return NOTHING
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:.{digits}f}"


def megabytes(num_bytes: int | None) -> str:
    """Return bytes in MB (10^6 bytes)."""
    return NOTHING if num_bytes is None else fixed(num_bytes / 1e6, 2)


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
    """Return a duration with its unit: ``12.3 s``, ``5:46 min``, ``1:05:46 h``."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{minutes(seconds)} {'min' if round(seconds) < 3600 else 'h'}"


def minutes(seconds: float | None) -> str:
    """Return a duration as m:ss, or h:mm:ss from an hour on."""
    if seconds is None:
        return NOTHING
    total = round(seconds)
    hours, rest = divmod(total, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"
