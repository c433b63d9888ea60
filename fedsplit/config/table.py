"""The config of an app as its pyproject.toml has it: every key, default and meaning."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from fedsplit.config.run import Config
from fedsplit.config.section import Section

_WIDTH = 98


def config_table(changes: Mapping[str, object]) -> str:
    """Return the lines below ``[tool.flwr.app.config]``.

    Parameters
    ----------
    changes : Mapping[str, object]
        Dotted keys whose value is not fedsplit's default.
    """
    lines: list[str] = []
    for key, field in _fields():
        meaning = field.description or ""
        if get_origin(field.annotation) is Literal:
            meaning += f" ({', '.join(map(str, get_args(field.annotation)))})"
        lines += ["", *(f"# {line}" for line in textwrap.wrap(meaning, _WIDTH))]
        value = changes.get(key, field.default)
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines[1:])


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key and its field, in the order of the config."""
    for name, field in Config.model_fields.items():
        if isinstance(field.default, Section):
            for inner, inner_field in type(field.default).model_fields.items():
                yield f"{name}.{inner_field.alias or inner}", inner_field
        else:
            yield field.alias or name, field
