"""What the scripts that generate a page share: write it, or check that it is current."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(path: Path, text: str) -> int:
    """Write a page, or with ``--check`` compare it; return the exit code."""
    arguments, script = sys.argv[1:], Path(sys.argv[0]).name
    if arguments == ["--check"]:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"docs/{path.name} is out of date: run python docs/{script}\n")
        return 1
    if arguments:
        sys.stderr.write(f"usage: {script} [--check]\n")
        return 2
    path.write_text(text, encoding="utf-8")
    return 0
