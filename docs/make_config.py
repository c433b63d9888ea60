"""Write docs/config.md from fedsplit/config/, or check that it is up to date.

uv run --no-sync python docs/make_config.py            writes it
uv run --no-sync python docs/make_config.py --check    exits 1 when it is stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeGuard, get_args, get_origin

from generated import write_or_check
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedsplit.config import Config
from fedsplit.config.run import STRATEGY_NAMES
from fedsplit.config.section import Address

PAGE = Path(__file__).with_name("config.md")
HEAD = """# Config keys

This page is generated from [fedsplit/config/](../fedsplit/config). Do not edit it. Generate it with

    uv run --no-sync python docs/make_config.py

and check it with `--check`, which exits with 1 if it is out of date.

Every key has a default, so a config file has only the keys that differ. A dotted key may also be
written in a table (`[data]`, then `name = ...`). `[tool.flwr.app.config]` of
[pyproject.toml](../pyproject.toml) has the same defaults. Unknown keys, wrong types and values out
of bounds are refused before anything is loaded, all in one message. Whole numbers are at most
2^63 - 1, as in TOML.

`strategy`, `model.name`, `data.name`, `codec.*` and `defence.name` also take code of your own as
`package.module:name`: see [extending.md](extending.md).

"""
TYPES = {str: "text", bool: "true or false", int: "whole number", float: "number"}
# What validators accept, in words: a field does not tell what its validator's code accepts.
VALIDATED = {
    "strategy": ", ".join(f"`{name}`" for name in STRATEGY_NAMES) + " or `package.module:name`",
    "run_name": "a plain directory name",
    "output_dir": "a path",
    "resume": "a path, or empty",
    "background": "a colour of Pillow",
    "prometheus": "host:port, port up to 65535; or empty",
    "address": "host:port, port up to 65535",
    "advertise": "host:port, port up to 65535; or empty",
    "certificate": "a path, or empty",
    "private_key": "a path, or empty",
    "client_ca": "a path, or empty",
    "root_certificates": "a path, or empty",
}
ADDRESS = get_args(Address)[1]
LARGEST = 2**63 - 1  # the bound of every whole number, which HEAD states once
SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def page() -> str:
    """Return the text of docs/config.md."""
    return HEAD + "\n\n".join(_sections()) + "\n"


def _sections() -> Iterator[str]:
    kinds = {name: field.annotation for name, field in Config.model_fields.items()}
    sections = {name: kind for name, kind in kinds.items() if _is_section(kind)}
    top = {name: field for name, field in Config.model_fields.items() if name not in sections}
    _check_validated([Config, *sections.values()])
    yield _table("The run", "Keys without a section.", "", top)
    for name, kind in sections.items():
        about = (kind.__doc__ or "").strip().splitlines()[0]
        yield _table(f"`{name}`", about, f"{name}.", kind.model_fields)


def _check_validated(kinds: Sequence[type[BaseModel]]) -> None:
    found = {
        name
        for kind in kinds
        for validator in kind.__pydantic_decorators__.field_validators.values()
        for name in validator.info.fields
    } | {
        name
        for kind in kinds
        for name, field in kind.model_fields.items()
        if ADDRESS in field.metadata
    }
    if found != set(VALIDATED):
        raise SystemExit(f"VALIDATED must describe the validators of {sorted(found)}.")


def _is_section(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _table(title: str, about: str, prefix: str, fields: dict[str, FieldInfo]) -> str:
    rows = [f"## {title}", "", about, ""]
    rows += ["| key | type | default | bounds | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        key = prefix + (field.alias or name)
        cells = [f"`{key}`", _type(field), f"`{json.dumps(field.default)}`", _bounds(name, field)]
        cells.append((field.description or "").replace("|", r"\|"))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _type(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    assert isinstance(field.annotation, type)
    return TYPES[field.annotation]


def _bounds(name: str, field: FieldInfo) -> str:
    found = [VALIDATED[name]] if name in VALIDATED else []
    for rule in field.metadata:
        bounds = {sign: getattr(rule, sign) for sign in SIGNS if hasattr(rule, sign)}
        found += [f"{SIGNS[sign]} {bound}" for sign, bound in bounds.items() if bound != LARGEST]
        if getattr(rule, "min_length", None):
            found.append("not empty")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page()))
