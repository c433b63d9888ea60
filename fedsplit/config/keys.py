"""The keys of a config as they are written: in any spelling, in a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from fedsplit.errors import ConfigError


def pairs(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted keys and their values, from tables of any depth."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def spelt(
    values: Mapping[str, object], valid_keys: Collection[str], source: str
) -> dict[str, object]:
    """Return the values by dotted, kebab-case key; a key that is not valid stays as it is.

    Parameters
    ----------
    values : Mapping[str, object]
        Dotted keys, nested tables, or a mix.
    valid_keys : Collection[str]
        Dotted and kebab-case.
    source : str
        Where the values come from, for the message.

    Raises
    ------
    ConfigError
        If a key occurs in two spellings.
    """
    underscored = {key.replace(".", "_").replace("-", "_"): key for key in valid_keys}
    found: dict[str, object] = {}
    spellings: dict[str, str] = {}
    for spelling, value in pairs(values):
        dashed = spelling.replace("_", "-")
        key = underscored.get(spelling, dashed if dashed in valid_keys else spelling)
        if key in found:
            raise ConfigError(
                f"{source}: {key} is set twice, as '{spellings[key]}' and as '{spelling}'. "
                "Keep one."
            )
        found[key], spellings[key] = value, spelling
    return found


def nest(values: Mapping[str, object], sections: Collection[str]) -> dict[str, object]:
    """Return the values with the keys of each section in a table of their own."""
    nested: dict[str, object] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        if not name or section not in sections:
            nested[key] = value
        elif isinstance(table := nested.setdefault(section, {}), dict):
            table[name] = value
        # Otherwise the section itself was set, and that is the error to report.
    return nested


def read_toml(path: Path) -> dict[str, object]:
    """Return the content of a TOML file.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The config file '{path}' is not valid TOML: {error}.") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"The config file '{path}' cannot be read: {reason}. Give the path of a TOML file, "
            "such as configs/sflv1.toml."
        ) from None
