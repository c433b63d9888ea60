"""A recording that is saved, and continued in another recorder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedsplit.errors import ConfigError, RunError
from fedsplit.fields import ENVIRONMENT_KEYS, Metric
from tests.results.examples import NORM, SPLIT_FACTS
from tests.results.test_recorder import Bench


def record(bench: Bench, first: int, last: int) -> None:
    for number in range(first, last + 1):
        bench.round(
            seconds=10.0 * number,
            train_loss=1 / number,
            test_accuracy=number / 10,
            cut_uplink_bytes=1000 + number,
            failed_clients=[number],
            smashed_norm=0.5 * number,
        )


def begun(directory: Path, *, initial: bool = True) -> Bench:
    directory.mkdir()
    bench = Bench(directory, num_rounds=5)
    bench.recorder.start(SPLIT_FACTS, metrics=[NORM])
    if initial:
        bench.recorder.note_initial(test_loss=2.3, test_accuracy=0.05)
    return bench


def saved_state(directory: Path) -> dict[str, Any]:
    bench = begun(directory)
    record(bench, 1, 2)
    state: dict[str, Any] = json.loads(json.dumps(bench.recorder.state_dict()))
    return state


def test_two_halves_are_one_recording(tmp_path: Path) -> None:
    """Break it: leave rows, initial scores, facts or elapsed seconds out of the state."""
    whole = begun(tmp_path / "whole")
    record(whole, 1, 5)
    expected = whole.recorder.finish()

    state = saved_state(tmp_path / "first")
    second = begun(tmp_path / "second", initial=False)
    second.now = 5_000.0  # another process has another clock
    second.recorder.load_state_dict(state)
    record(second, 3, 5)
    found = second.recorder.finish()

    assert second.recorder.rows == whole.recorder.rows
    kept = [bench.directory.rounds_path.read_bytes() for bench in (whole, second)]
    assert kept[0] == kept[1]
    assert found.pop("run_directory") != expected.pop("run_directory")
    assert found == expected
    assert found["wall_seconds"] == 150.0


def test_a_recorder_that_has_not_started_can_continue(tmp_path: Path) -> None:
    state = saved_state(tmp_path / "first")
    bench = Bench(tmp_path, num_rounds=5)
    bench.recorder.load_state_dict(state)
    assert bench.recorder.metrics == (NORM,)
    record(bench, 3, 3)
    assert bench.recorder.finish()["finished_rounds"] == 3


def test_rows_of_another_recording_are_replaced(tmp_path: Path) -> None:
    """Break it: append the saved rows to what rounds.jsonl has."""
    state = saved_state(tmp_path / "first")
    bench = begun(tmp_path / "second")
    record(bench, 1, 4)
    bench.recorder.load_state_dict(state)
    lines = bench.directory.rounds_path.read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    record(bench, 3, 3)
    lines = bench.directory.rounds_path.read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]


def test_the_log_goes_on_with_a_header_and_the_old_pace(tmp_path: Path) -> None:
    """Break it: print the header by the number of the round; forget the pace of the old rounds."""
    state = saved_state(tmp_path / "first")
    bench = begun(tmp_path / "second", initial=False)
    bench.recorder.load_state_dict(state)
    record(bench, 3, 3)
    _, header, line = bench.lines
    assert header.startswith("round")
    assert line.split()[0] == "3/5"
    assert line.split()[-2:] == ["40.0", "s"]  # two rounds of (10 + 20 + 30) / 3 seconds


def test_a_state_shares_nothing_with_the_recorder(tmp_path: Path) -> None:
    """Break it: hand out the recorder's own list of rows."""
    bench = begun(tmp_path / "first")
    record(bench, 1, 1)
    state = bench.recorder.state_dict()
    record(bench, 2, 2)
    assert len(state["rows"]) == 1
    other = begun(tmp_path / "second")
    other.recorder.load_state_dict(state)
    record(other, 2, 2)
    assert len(state["rows"]) == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rows": [{"round": 1}]}, "row 1 lacks or adds .*train_loss"),
        ({"rows": 3}, "TypeError"),
        ({"facts": {"engine": "flower"}}, "its facts have the keys engine"),
        ({"initial": {}}, "its initial scores have the keys"),
        ({"elapsed_seconds": -1.0}, "its elapsed_seconds are -1.0"),
        ({"elapsed_seconds": None}, "its elapsed_seconds are None"),
        ({"metrics": [{"key": "Norm", "label": "n"}]}, "ConfigError: .*lower_snake_case"),
        ({"colour": "red"}, "TypeError"),
    ],
)
def test_a_state_that_is_none_is_refused_and_nothing_changes(
    tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    """Break it: check after writing rounds.jsonl."""
    state = saved_state(tmp_path / "first") | change
    bench = begun(tmp_path / "second")
    record(bench, 1, 1)
    with pytest.raises(ConfigError, match=rf"cannot continue from this state \(.*{fault}"):
        bench.recorder.load_state_dict(state)
    assert len(bench.recorder.rows) == 1
    assert len(bench.directory.rounds_path.read_text().splitlines()) == 1


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    state = saved_state(tmp_path / "first")
    with pytest.raises(ConfigError, match="row 1 is that of round 2"):
        begun(tmp_path / "second").recorder.load_state_dict(state | {"rows": state["rows"][::-1]})
    with pytest.raises(ConfigError, match="KeyError: 'metrics'"):
        begun(tmp_path / "third").recorder.load_state_dict({})


def test_a_run_with_other_metrics_is_refused(tmp_path: Path) -> None:
    """Break it: take the metrics of the state without a look at those declared."""
    state = saved_state(tmp_path / "first")
    bench = Bench(tmp_path)
    bench.recorder.start(SPLIT_FACTS, metrics=[Metric("other", "another one")])
    with pytest.raises(ConfigError, match="declares the metrics smashed_norm; this run declares o"):
        bench.recorder.load_state_dict(state)


def test_rows_that_cannot_be_written_change_nothing(tmp_path: Path) -> None:
    state = saved_state(tmp_path / "first")
    bench = begun(tmp_path / "second")
    bench.directory.rounds_path.mkdir()
    with pytest.raises(RunError, match=r"Cannot write '.*rounds\.jsonl'"):
        bench.recorder.load_state_dict(state)
    assert bench.recorder.rows == []


def test_results_of_clients_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    """Break it: keep them; the rounds are made again, and would have two lines each."""
    bench = begun(tmp_path / "run")
    states = []
    for number in (1, 2):
        bench.recorder.note_clients("train", {0: {"loss": float(number)}})
        record(bench, number, number)
        states.append(bench.recorder.state_dict())
    with bench.directory.client_results_path.open("a") as file:
        file.write('{"round": 3, "tr')  # its process was killed, or the disk was full
    bench.recorder.load_state_dict(states[0])
    (line,) = bench.directory.client_results_path.read_text().splitlines()
    assert json.loads(line)["round"] == 1


def test_a_state_of_an_older_version_does_not_know_its_place(tmp_path: Path) -> None:
    """Break it: refuse it, or take this machine for the one that began the run."""
    state = saved_state(tmp_path / "first")
    facts = {key: value for key, value in state["facts"].items() if key not in ENVIRONMENT_KEYS}
    bench = begun(tmp_path / "second")
    bench.recorder.load_state_dict(state | {"facts": facts})
    rounds = len(state["rows"])
    cpu = SPLIT_FACTS["cpu"]
    assert bench.recorder.finish()["cpu"] == f"not known; from round {rounds + 1}: {cpu}"
