"""What only the process that has made a run knows: its engine, and what `simulate` was given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from fedsplit.results.files import read_object, replace_text


@dataclass(frozen=True)
class LastProcess:
    """The last process that has made a run, as ``process.json`` in the run directory says it.

    Attributes
    ----------
    engine : str
        Its engine: ``flower`` or ``inprocess``.
    given : Mapping[str, str]
        Argument of `simulate` that no config key keeps -> the names of what it was given.
    deployed : bool
        Whether SuperNodes of the sites' own ran the clients.
    """

    engine: str
    given: Mapping[str, str] = field(default_factory=dict)
    deployed: bool = False

    def write(self, path: Path) -> None:
        """Write it to a file, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        replace_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what a file says; None if there is none, as of runs of earlier versions."""
        try:
            found = cls(**read_object(path))
        except (OSError, ValueError, TypeError):
            return None
        return found if isinstance(found.given, dict) else None
