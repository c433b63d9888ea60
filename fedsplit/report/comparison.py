"""comparison.json: the record that a directory of a comparison keeps of itself."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedsplit.config import Config, Scalar
from fedsplit.errors import damaged
from fedsplit.report.results_check import of_kind
from fedsplit.results.files import read_object
from fedsplit.results.strict_json import dumps

FILE_NAME = "comparison.json"
DEFAULTS = Config().to_flat()


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes
    ----------
    setting, label : str
        The labels of its setting (empty if there are no settings) and of its variant.
    seed : int
        The seed of the run.
    directory : str
        Its run directory, relative to the directory of the comparison.
    """

    setting: str
    label: str
    seed: int
    directory: str


@dataclass
class Comparison:
    """A comparison as its directory records it.

    Attributes
    ----------
    name, command : str
        Its name, and the command that made it.
    seeds : list[int]
        The seeds of each variant in each setting.
    base : dict[str, Scalar]
        The keys of the base whose values are not defaults. A setting or variant may override them.
    settings, variants : dict[str, dict[str, Scalar]]
        Label -> the keys that it sets.
    jobs : int
        The number of runs at a time.
    runs : list[ComparedRun]
        All planned runs.
    failures : dict[str, str]
        Directory of a run -> why it failed.
    wall_seconds : float
        The time spent on it so far, over all starts.
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

    def keys_of(self, setting: str, label: str) -> dict[str, Scalar]:
        """Return the keys that are set for the runs of a variant in a setting."""
        return {**self.base, **self.settings.get(setting, {}), **self.variants[label]}

    def shared_keys(self) -> dict[str, Scalar]:
        """Return the keys that have one value in all runs, which is not the default."""
        tables = [
            {**DEFAULTS, **self.keys_of(setting, label)}
            for setting in self.settings or [""]
            for label in self.variants
        ]
        return {
            key: value
            for key, value in tables[0].items()
            if value != DEFAULTS.get(key) and all(table.get(key) == value for table in tables)
        }

    def write(self, directory: Path) -> None:
        """Write it to its directory, whole or not at all."""
        temporary = directory / f".{FILE_NAME}.{os.getpid()}"
        temporary.write_text(dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        temporary.replace(directory / FILE_NAME)

    @classmethod
    def read(cls, directory: Path) -> Comparison:
        """Read it from its directory.

        Raises
        ------
        ConfigError
            If the file does not exist, or is not what `write` has written.
        """
        path = directory / FILE_NAME
        try:
            found: Comparison = of_kind(read_object(path), cls, FILE_NAME)
            found._check()
        except (OSError, ValueError) as error:
            remedy = "Running the comparison again, with this file moved away, makes it anew."
            raise damaged(path, error, remedy) from None
        return found

    def _check(self) -> None:
        """Refuse runs that are not those of its variants, settings and folder."""
        for run in self.runs:
            parts = Path(run.directory).parts
            if parts[:1] != ("runs",) or len(parts) != 2 or parts[1] == "..":
                raise ValueError(f"the directory {run.directory!r} of a run is not in runs/")
            if run.label not in self.variants or run.setting not in (self.settings or [""]):
                raise ValueError(f"no variant or setting is called as in the run '{run.directory}'")
        if not self.seeds:
            raise ValueError("it has no seeds")
        if not 0 <= self.wall_seconds < math.inf:
            raise ValueError(f"its wall_seconds are {self.wall_seconds}")
