from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from fedsplit.config_errors import describe


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: int = 1


def _error(**values: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        _Model.model_validate(values)
    return caught.value


def test_one_error_is_counted_in_the_singular() -> None:
    text = describe(_error(size="x"), "here", ["size"])
    assert text == "here has 1 error:\n  size = 'x': must be a whole number"


def test_the_nearest_key_is_named_by_its_last_part_too() -> None:
    text = describe(_error(cut_lair=1), "here", ["size", "split.cut-layer"])
    assert text.endswith("cut_lair = 1: unknown key; did you mean 'split.cut-layer'?")


def test_without_a_near_key_all_are_named() -> None:
    text = describe(_error(xyz=1), "here", ["size", "split.cut-layer"])
    assert text.endswith("xyz = 1: unknown key; valid keys: size, split.cut-layer")
