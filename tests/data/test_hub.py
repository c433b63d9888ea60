from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsplit.data import hub
from fedsplit.errors import DataError

CODE = """
import time
from fedsplit.data.hub import read_hub
from fedsplit.errors import DataError
start = time.monotonic()
try:
    read_hub("nobody/nothing")
except DataError as error:
    print(round(time.monotonic() - start, 1), error)
"""


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}],
    ids=["offline", "refused"],
)
def test_an_unreachable_hub_is_one_quick_message(
    environment: dict[str, str], tmp_path: Path
) -> None:
    # The libraries read these variables when they are imported: hence another process.
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | environment | {"HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, _, message = run.stdout.strip().partition(" ")
    assert float(seconds) < 5
    assert "nobody/nothing" in message
    assert "could not be reached" in message
    assert "local folder" in message
    assert "\n" not in message


def test_a_name_that_the_hub_refuses() -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match="There is no data set 'not a name'"):
        hub.read_hub("not a name")
    assert time.monotonic() - start < 5


def test_a_subset_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config_name: str | None) -> dict[str, object]:
        asked.append((name, config_name))
        return {}

    monkeypatch.setattr(hub, "_probe", lambda name: "")
    monkeypatch.setattr("datasets.load_dataset", load)
    hub.read_hub("a/b", "fine")
    hub.read_hub("a/b")
    assert asked == [("a/b", "fine"), ("a/b", None)]


def test_other_failures_are_data_errors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, config_name: str | None) -> None:
        raise ValueError(f"Config name is missing for {name}")

    monkeypatch.setattr(hub, "_probe", lambda name: "")
    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(DataError, match=r"cannot be loaded .* Config name is missing for a/b"):
        hub.read_hub("a/b")
