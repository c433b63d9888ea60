"""A shards.json that somebody else has made is checked before anything is built from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsplit.errors import DataError
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.shards_file import read_shards

NAMES, COUNTS = ["cat", "dog"], [[3, 0], [1, 2]]


def test_what_a_run_writes_is_read(tmp_path: Path) -> None:
    """Names are only shown, so those of scenes such as /a/abbey are names like others."""
    names = ["/a/abbey", "../../x", "", "dog", "dog"]
    run = RunDirectory(tmp_path)
    run.write_shards([[1, 2, 3, 4, 5]] * 2, names)
    assert read_shards(run.shards_path) == (names, [[1, 2, 3, 4, 5]] * 2)


def forged(**changes: object) -> str:
    whole = {"class_names": NAMES, "class_counts": COUNTS, **changes}
    return json.dumps({key: value for key, value in whole.items() if value != "left out"})


FORGED = {
    "unknown key": (forged(owner="me"), r"owner is 'me'; it must be absent"),
    "no names": (forged(class_names="left out"), r"class_names is None; it must be there"),
    "no counts": (forged(class_counts="left out"), r"class_counts is None; it must be there"),
    "names no list": (forged(class_names={"a": 1}), r"class_names is \{'a': 1\}"),
    "names empty": (forged(class_names=[]), r"class_names is \[\]"),
    "name a number": (forged(class_names=["a", 7]), r"class_names\[1\] is 7; it must be a text"),
    "name too long": (forged(class_names=["a", "b" * 1001]), r"class_names\[1\] is 'bbb"),
    "counts a number": (forged(class_counts=3), r"class_counts is 3; it must be a list"),
    "counts empty": (forged(class_counts=[]), r"class_counts is \[\]"),
    "row too short": (
        forged(class_counts=[[1, 2], [3]]),
        r"class_counts\[1\] is \[3\] of length 1; it must be a list of 2 numbers",
    ),
    "row too long": (forged(class_counts=[[1, 2, 3]]), r"class_counts\[0\] is .* of length 3"),
    "row no list": (forged(class_counts=[None]), r"class_counts\[0\] is None"),
    "negative": (forged(class_counts=[[1, -1]]), r"class_counts\[0\]\[1\] is -1; .* from 0 to"),
    "huge": (forged(class_counts=[[10**18, 1]]), r"class_counts\[0\]\[0\] is 1000000000000000000;"),
    "true": (forged(class_counts=[[True, 1]]), r"class_counts\[0\]\[0\] is True"),
    "fraction": (forged(class_counts=[[1.5, 1]]), r"class_counts\[0\]\[0\] is 1\.5"),
    "text": (forged(class_counts=[["1", 1]]), r"class_counts\[0\]\[0\] is '1'"),
    "not a number": ('{"class_names": ["a"], "class_counts": [[NaN]]}', r"\[0\]\[0\] is nan"),
    "key twice": (
        '{"class_names": ["a"], "class_names": ["b"]}',
        "'class_names' is there twice",
    ),
    "a list": ("[]", r"is \[\], no JSON object"),
    "cut": (forged()[:20], "cannot be read"),
    "nested": ("[" * 100_000, "cannot be read"),
    "long number": ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
}


@pytest.mark.parametrize(("text", "said"), FORGED.values(), ids=FORGED)
def test_a_forged_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    """Break it: leave out the check of what the case is called."""
    path = tmp_path / "shards.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        read_shards(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert str(caught.value).endswith("Take the file that the run has written, or train again.")


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "shards.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_shards(tmp_path / "shards.json")
