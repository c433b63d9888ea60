"""What a comparison's directory says of itself: ``comparison.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedsplit.config import Scalar
from fedsplit.errors import ConfigError
from fedsplit.results.strict_json import dumps

FILE_NAME = "comparison.json"


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes
    ----------
    setting, label : str
        Of its setting (empty: there are none) and its variant.
    seed : int
        The run's seed.
    directory : str
        Its run directory, from the comparison's.
    """

    setting: str
    label: str
    seed: int
    directory: str


@dataclass
class Comparison:
    """A comparison as its directory keeps it.

    Attributes
    ----------
    name, command : str
        What it is called, and what made it.
    seeds : list[int]
        Of each variant in each setting.
    base : dict[str, Scalar]
        The keys that all runs share and that are not defaults.
    settings, variants : dict[str, dict[str, Scalar]]
        Label -> the keys in which it differs.
    jobs : int
        Runs at a time.
    runs : list[ComparedRun]
        All that were asked for.
    failures : dict[str, str]
        Directory of a run -> why it failed.
    wall_seconds : float
        Spent on it so far, over all starts.
    """

    name: str
    command: str
    seeds: list[int]
    base: dict[str, Scalar]
    settings: dict[str, dict[str, Scalar]]
    variants: dict[str, dict[str, Scalar]]
    jobs: int
    runs: list[ComparedRun]
    failures: dict[str, str] = field(default_factory=dict)
    wall_seconds: float = 0.0

    def write(self, directory: Path) -> None:
        """Write it, whole or not at all."""
        temporary = directory / f".{FILE_NAME}.{os.getpid()}"
        temporary.write_text(dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        temporary.replace(directory / FILE_NAME)

    @classmethod
    def read(cls, directory: Path) -> Comparison:
        """Read it.

        Raises
        ------
        ConfigError
            If it is not there, or not what `write` has written.
        """
        path = directory / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            assert isinstance(values, Mapping)
            return cls(**{**values, "runs": [ComparedRun(**run) for run in values["runs"]]})
        except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
            raise ConfigError(
                f"'{path}' cannot be read ({error or type(error).__name__}). Give a directory that "
                "'fedsplit compare' has made; running the comparison again repairs this file."
            ) from None
