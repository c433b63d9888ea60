from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from fedsplit.blame import users_frame, users_method
from fedsplit.split.client_rules import WholeModel


@pytest.mark.parametrize(
    ("called", "ours"),
    [
        ("from fedsplit.results.run_names import _dataset_word; _dataset_word(None)", True),
        ("import json; json.loads('{')", False),
    ],
)
def test_what_a_library_raises_is_blamed_on_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, ours: bool
) -> None:
    """Break it: take Python's own modules, or the program that calls `main`, for the user's."""
    (tmp_path / "own_code.py").write_text(f"def run():\n    {called}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    with pytest.raises((TypeError, ValueError)) as caught:
        importlib.import_module("own_code").run()
    frame = users_frame(caught.value)
    if ours:
        assert frame is None
    else:
        assert frame is not None
        place = (frame.filename, frame.lineno, frame.name)
        assert place == (str(tmp_path / "own_code.py"), 2, "run")


class _Mine(WholeModel):
    def measured(self) -> dict[str, float]:
        return {}


def test_only_methods_that_the_user_has_written_are_named() -> None:
    """Break it: take what is inherited from fedsplit for the user's."""
    assert users_method(_Mine, "train_step", "train") is None
    found = str(users_method(_Mine, "train_step", "measured"))
    assert re.fullmatch(r"_Mine\.measured \(tests/test_blame\.py, line \d+\)", found)
    assert users_method(json.JSONDecoder, "decode") is None  # a library's
