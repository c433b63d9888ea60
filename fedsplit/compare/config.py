"""The file of a comparison: base keys, variants, settings that each variant runs in, and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from fedsplit.config import Config, read_toml
from fedsplit.config.errors import findings
from fedsplit.config.keys import spelt
from fedsplit.config.section import Section, Whole
from fedsplit.errors import ConfigError
from fedsplit.names import path_fault

OWN_KEYS = {"seed": "seeds", "run-name": "label", "output-dir": "--output-dir"}
"""Keys that compare sets in every run -> what to set instead."""
LONGEST_LABEL = 40

_VALID_KEYS = tuple(Config().to_flat())
_KEYS_OF_A_RUN = {key.partition(".")[0] for key in _VALID_KEYS}


class Variation(Section):
    """A variant or a setting: a label, and the keys that it changes.

    ``keys`` are dotted and kebab-case. In the file they stand beside the label.
    """

    label: str = Field(min_length=1, max_length=LONGEST_LABEL)
    keys: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _beside_the_label(cls, table: object) -> object:
        if not isinstance(table, Mapping):
            raise ValueError("must be a table with a label and the keys that differ")
        keys = {key: value for key, value in table.items() if key != "label"}
        label = {"label": table["label"]} if "label" in table else {}
        return {**label, "keys": _keys(keys)}

    @field_validator("label")
    @classmethod
    def _can_be_shown(cls, label: str) -> str:
        if not label.isprintable() or label != label.strip():
            raise ValueError("must be printable, without spaces at its ends")
        return label


class CompareConfig(Section):
    """The contents of a comparison's file. Immutable."""

    name: str
    seeds: list[Whole]
    base: dict[str, Any] = Field(default_factory=dict)
    settings: list[Variation] = Field(default_factory=list)
    variants: list[Variation]

    @field_validator("name")
    @classmethod
    def _a_directory_name(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.+-]*", name) or path_fault(name):
            raise ValueError("must be a plain directory name, such as 'split-vs-full'")
        return name

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if not seeds:
            raise ValueError("must contain at least one seed, such as seeds = [1, 2, 3]")
        if wrong := [seed for seed in seeds if seed < 0]:
            raise ValueError(f"must not contain a negative seed ({wrong[0]})")
        if repeated := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise ValueError(f"must not contain {repeated[0]} twice")
        return seeds

    @field_validator("base", mode="before")
    @classmethod
    def _base_keys(cls, base: object) -> object:
        return _keys(base) if isinstance(base, Mapping) else base

    @field_validator("variants")
    @classmethod
    def _some(cls, variants: list[Variation]) -> list[Variation]:
        if not variants:
            raise ValueError("must contain at least one table [[variants]] with a label")
        return variants


_FIELDS = tuple(CompareConfig.model_fields)


def read_compare(path: str | Path) -> tuple[CompareConfig, list[str]]:
    """Read a comparison's file.

    Returns
    -------
    tuple[CompareConfig, list[str]]
        What can be understood of the file, and everything that is wrong with its form. Its config
        keys are not checked yet.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not TOML, or is the config of one run.
    """
    values = read_toml(Path(path))
    if not values.keys() & {"variants", "settings", "base"} and values.keys() & _KEYS_OF_A_RUN:
        raise ConfigError(
            f"'{path}' is the config of one run: it has no [[variants]]. Run it with 'fedsplit run "
            f"{path}', or make it the [base] of a comparison (docs/compare.md)."
        )
    try:
        return CompareConfig.model_validate(values), []
    except ValidationError as error:
        return _understood(values), [_readable(line) for line in findings(error, _FIELDS)]


def _understood(values: Mapping[str, object]) -> CompareConfig:
    """Return the valid parts of an invalid file, so that their config keys can be checked too."""
    stand_in = {"name": "unnamed", "seeds": [0], "variants": [{"label": "unnamed"}]}
    right = CompareConfig.model_validate(stand_in)
    for key in ("name", "seeds", "base"):
        with suppress(ValidationError, KeyError):
            right = CompareConfig.model_validate({**right.model_dump(), key: values[key]})
    return CompareConfig.model_construct(
        name=right.name,
        seeds=right.seeds,
        base=right.base,
        settings=_each(values.get("settings")),
        variants=_each(values.get("variants")),
    )


def _each(tables: object) -> list[Variation]:
    """Return the valid tables of a list."""
    found = []
    for table in tables if isinstance(tables, list) else []:
        with suppress(ValidationError):
            found.append(Variation.model_validate(table))
    return found


def _readable(line: str) -> str:
    """Return a line in which tables are numbered from 1."""
    return re.sub(r"^(variants|settings|seeds)\.(\d+)", lambda m: f"{m[1]}[{int(m[2]) + 1}]", line)


def _keys(table: Mapping[str, object]) -> dict[str, object]:
    try:
        return spelt(table, _VALID_KEYS, "The table")
    except ConfigError as error:
        raise ValueError(str(error)) from None
