from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.config.keys import nest, pairs, read_toml, spelt
from fedsplit.errors import ConfigError

VALID = ("seed", "batch-size", "split.cut-layer")


def test_tables_become_dotted_keys() -> None:
    values = {"a": {"b": {"c": 1}, "d": 2}, "e.f": {"g": 3}, "empty": {}}
    assert dict(pairs(values)) == {"a.b.c": 1, "a.d": 2, "e.f.g": 3}


@pytest.mark.parametrize(
    "values",
    [
        {"split.cut-layer": 2},
        {"split.cut_layer": 2},
        {"split_cut_layer": 2},
        {"split": {"cut-layer": 2}},
        {"split": {"cut_layer": 2}},
    ],
)
def test_every_spelling_of_a_key(values: dict[str, object]) -> None:
    assert spelt(values, VALID, "x") == {"split.cut-layer": 2}


def test_a_file_nested_too_deep_is_refused(tmp_path: Path) -> None:
    """Break it: let the parser's RecursionError through; `fedsplit runs` then lists nothing."""
    (tmp_path / "c.toml").write_text("x = " + "[" * 10**5)
    with pytest.raises(ConfigError, match="cannot be read: maximum recursion depth"):
        read_toml(tmp_path / "c.toml")


def test_unknown_keys_stay_as_they_are() -> None:
    assert spelt({"cut_layer": 1, "split": {"x_y": 2}}, VALID, "x") == {
        "cut_layer": 1,
        "split.x_y": 2,
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch-size": 1, "batch_size": 1}, "'batch-size' and as 'batch_size'"),
        (
            {"split": {"cut_layer": 1}, "split.cut-layer": 1},
            "'split.cut_layer' and as 'split.cut-layer'",
        ),
    ],
)
def test_two_spellings_of_one_key_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"my.toml: .* is set twice, as {said}. Keep one"):
        spelt(values, VALID, "my.toml")


@pytest.mark.parametrize("order", [1, -1])
def test_only_sections_become_tables(order: int) -> None:
    flat: list[tuple[str, object]] = [("a.x", 1), ("a", 3), ("b.y", 4), ("c.z", 5), ("d", 6)]
    nested = nest(dict(flat[::order]), ("a", "b"))
    assert nested == {"a": 3, "b": {"y": 4}, "c.z": 5, "d": 6}
