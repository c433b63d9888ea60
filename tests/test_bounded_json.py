from __future__ import annotations

import json
import time

import pytest

from fedsplit.bounded_json import MAX_DEPTH, loads


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":1}', '{"a":1,"\\u0061":2}', '[{"b":{"a":1,"c":2,"a":3}}]'],
    ids=["equal", "spelt otherwise", "within"],
)
def test_a_key_that_is_there_twice_is_refused(text: str) -> None:
    """Break it: let json take the last value."""
    with pytest.raises(ValueError, match="the key 'a' is there twice"):
        loads(text)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 5_000, 1_000_000])
def test_deep_nesting_is_a_sentence(depth: int) -> None:
    """Break it: let the RecursionError through, or bound nothing below Python's own limit."""
    began = time.thread_time()
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth):
        with pytest.raises(ValueError, match=r"nested more than 32 deep|Expecting value"):
            loads(text)
    assert time.thread_time() - began < 1


def test_everything_else_is_what_json_says() -> None:
    values: list[object] = [{"a": [1, {"b": None}], "c": {"a": 2}}, [], 1.5, "text", None]
    for value in values:
        assert loads(json.dumps(value)) == value
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert loads(deep) == json.loads(deep)
