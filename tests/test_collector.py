"""The garbage collector waits for imports, and for nothing else."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsplit import preparation, rounds, server_app
from fedsplit.collector import collect_again, waiting_collector
from fedsplit.errors import RunError
from tests.conftest import Call


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Undo what the test session has frozen, see tests/conftest.py."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if frozen:
        gc.freeze()


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self, said: list[str], text: str) -> None:
        self.me, self.said, self.text = self, said, text

    def __del__(self) -> None:
        self.said.append(self.text)


def test_it_goes_on_within_the_block_and_finds_everything_after_it() -> None:
    said: list[str] = []
    with waiting_collector():
        assert not gc.isenabled()
        Cycle(said, "before")
        collect_again()
        assert gc.isenabled()
        Cycle(said, "after")
        gc.collect()
        assert said == ["after"]
    gc.collect()
    assert said == ["after", "before"]
    assert gc.get_freeze_count() == 0


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(RunError), waiting_collector():
        raise RunError("no")
    assert gc.isenabled()


def test_a_collector_that_the_user_has_stopped_stays_so() -> None:
    gc.disable()
    try:
        with waiting_collector():
            collect_again()
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_objects_that_somebody_else_has_frozen_stay_so() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with waiting_collector():
        assert gc.isenabled()
    assert gc.get_freeze_count() > frozen / 2  # what nobody uses any more goes all the same


def test_a_run_imports_without_it_and_trains_with_it(
    call: Call, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def checked(*arguments: object, **options: object) -> object:
        seen.append(gc.isenabled())
        return preparation.prepare(*arguments, **options)  # type: ignore[arg-type]

    def stopped(*_: object) -> None:
        seen.append(gc.isenabled())
        raise RunError("That is enough.")

    monkeypatch.setattr(server_app, "prepare", checked)
    monkeypatch.setattr(rounds.Rounds, "run", stopped)
    code, said = call("run", str(config), "--engine", "inprocess")
    assert code == 1
    assert said.startswith("fedsplit: That is enough. No round is kept in")
    assert seen == [False, True]
    assert gc.isenabled()
