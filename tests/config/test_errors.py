from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from fedsplit.config.errors import describe


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


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("rounds", "num-server-rounds"),
        ("num_rounds", "num-server-rounds"),
        ("alpha", "data.alpha"),
        ("round-timeut", "round-timeout"),
    ],
)
def test_the_key_with_the_same_words_is_meant(key: str, meant: str) -> None:
    valid = ["num-server-rounds", "round-timeout", "data.alpha", "data.name"]
    assert describe(_error(**{key: 1}), "x", valid).endswith(f"did you mean '{meant}'?")


def test_long_values_are_cut() -> None:
    text = describe(_error(size="y" * 10_000), "x", ["size"])
    assert len(text) < 400
    assert text.endswith("yyy ...: must be a whole number")


def test_overriding_keys_are_told_apart() -> None:
    error = _error(size="x", b=1)
    assert describe(error, "a.toml", ["size"]).startswith("a.toml has 2 errors:")
    head = describe(error, "a.toml", ["size"], {"size"}).partition("\n")[0]
    assert head == "a.toml and its overrides have 2 errors:"
    assert describe(error, "a.toml", ["size"], {"size", "b"}).startswith(
        "The overrides of a.toml have"
    )
