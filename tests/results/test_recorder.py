from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.fields import DECLARED_KEY, FIELDS, ROW_KEYS, SUMMARY_KEYS, declared_in
from fedsplit.results.recorder import Recorder
from fedsplit.results.run_directory import RunDirectory
from tests.results.examples import METRICS, SPLIT_FACTS, UNSPLIT_FACTS

CONTRACT_KEYS = set(
    """strategy model dataset partitioner num_clients num_rounds seed engine cut_layer
    final_accuracy final_loss best_accuracy cut_uplink_bytes cut_downlink_bytes
    sync_uplink_bytes sync_downlink_bytes client_parameters server_parameters
    client_trainable_parameters server_trainable_parameters
    client_flops_per_sample server_flops_per_sample client_memory_bytes server_memory_bytes
    wall_seconds train_samples_per_second
    """.split()  # noqa: SIM905 - in the order of the contract
)


class Bench:
    """A recorder whose clock the test sets."""

    def __init__(self, directory: Path, num_rounds: int = 3) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        self.directory = RunDirectory(directory)
        config = Config.load({"num-server-rounds": num_rounds})
        self.recorder = Recorder(self.directory, config, self.lines.append, clock=lambda: self.now)

    def start(self, facts: dict[str, Any] = SPLIT_FACTS) -> Recorder:
        self.recorder.start(facts)
        return self.recorder

    def round(self, seconds: float = 10.0, **values: object) -> dict[str, Any]:
        self.now += seconds
        self.recorder.note(**values)
        return self.recorder.end_round()

    def last_cells(self) -> list[str]:
        return self.lines[-1].split()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_row_has_every_key_in_order_and_is_written_at_once(bench: Bench) -> None:
    bench.start()
    bench.recorder.note(train_loss=2.0, num_examples=500)
    row = bench.round(train_loss=1.5, test_accuracy=0.5)
    assert tuple(row) == ROW_KEYS
    assert {key: value for key, value in row.items() if value not in (None, [])} == {
        "round": 1,
        "train_loss": 1.5,
        "test_accuracy": 0.5,
        "num_examples": 500,
        "round_seconds": 10.0,
    }
    assert json.loads(bench.directory.rounds_path.read_text()) == row
    assert bench.recorder.rows == [row]


def test_values_of_a_round_do_not_leak_into_the_next(bench: Bench) -> None:
    bench.start()
    bench.round(train_loss=1.0, failed_clients=[3])
    row = bench.round(seconds=4.0)
    assert (row["round"], row["train_loss"], row["failed_clients"]) == (2, None, [])
    assert row["round_seconds"] == 4.0


def test_unknown_key_is_refused(bench: Bench) -> None:
    with pytest.raises(TypeError, match="has no train_los"):
        bench.start().note(train_los=1.0)


def test_diverged_loss_is_null_in_the_row_and_nan_in_the_line(bench: Bench) -> None:
    bench.start()
    assert bench.round(train_loss=math.nan)["train_loss"] is None
    assert bench.last_cells()[1] == "nan"
    assert "NaN" not in bench.directory.rounds_path.read_text()


def test_line_of_a_round(bench: Bench) -> None:
    bench.start()
    bench.round(
        seconds=12.5,
        train_loss=2.10341,
        test_accuracy=0.45119,
        validation_accuracy=0.448,
        num_participants=10,
        failed_clients=[3, 7],
        cut_uplink_bytes=6_300_000,
        cut_downlink_bytes=6_249_000,
        num_examples=4_000,
        train_seconds=10.0,
    )
    above, header, line = bench.lines
    assert line.split() == [
        "1/3", "2.1034", "0.4512", "0.4480", "2", "6.30", "MB",
        "6.25", "MB", "12.5", "s", "25.0", "s",
    ]  # fmt: skip
    assert len(above) == len(header) == len(line) <= 80
    assert [text[22:30].strip() for text in (above, header, line)] == ["val", "acc", "0.4480"]


def test_missing_values_are_dashes(bench: Bench) -> None:
    bench.start()
    bench.round(train_loss=1.0)
    assert bench.last_cells() == ["1/3", "1.0000", *"-----", "10.0", "s", "20.0", "s"]


def test_time_left_is_from_the_last_five_rounds(tmp_path: Path) -> None:
    bench = Bench(tmp_path, num_rounds=10)
    bench.start()
    bench.round(seconds=500.0)
    for _ in range(5):
        bench.round(seconds=30.0)
    assert bench.last_cells()[-2:] == ["2:00", "min"]
    for _ in range(4):
        bench.round(seconds=30.0)
    assert bench.last_cells()[-2:] == ["0.0", "s"]


def test_header_every_20_rounds_and_columns_stay_fixed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, num_rounds=999)
    bench.start()
    for number in range(41):
        bench.round(train_loss=1.0 / (1 + number))
    assert [i for i, line in enumerate(bench.lines) if "train" in line] == [0, 22, 44]
    assert {len(line) for line in bench.lines} == {79}


def test_progress_of_a_long_round(bench: Bench) -> None:
    recorder = bench.start()
    for done in range(1, 11):
        bench.now += 2.0
        recorder.progress(done, 10)
    assert bench.lines == [
        "  3/10 clients done, 14 s left in this round's training",
        "  6/10 clients done, 8 s left in this round's training",
        "  9/10 clients done, 2 s left in this round's training",
    ]


def test_progress_of_a_short_round_is_silent(bench: Bench) -> None:
    recorder = bench.start()
    for done in range(1, 11):
        bench.now += 0.4
        recorder.progress(done, 10)
    assert bench.lines == []


def test_progress_estimates_evaluation_separately(bench: Bench) -> None:
    recorder = bench.start()
    bench.now += 600.0
    recorder.progress(10, 10)
    bench.now += 6.0
    recorder.progress(2, 10, doing="evaluation")
    assert bench.lines == ["  2/10 clients done, 24 s left in this round's evaluation"]


def test_progress_of_clients_that_work_at_once_is_estimated_from_the_round_before(
    bench: Bench,
) -> None:
    """Break it: take it that the others begin when the first has ended."""
    recorder = bench.start()
    for _ in range(2):
        bench.now += 20.0
        recorder.progress(1, 3)
        bench.now += 1.0
        recorder.progress(3, 3)
        bench.round(seconds=5.0)
    said = [line for line in bench.lines if "clients done" in line]
    assert said == [
        "  1/3 clients done, 40 s left in this round's training",
        "  1/3 clients done, 1 s left in this round's training",
    ]


def test_progress_restarts_in_the_next_round(bench: Bench) -> None:
    recorder = bench.start()
    bench.round(seconds=600.0)
    bench.now += 100.0
    recorder.progress(1, 4)
    assert bench.lines[-1] == "  1/4 clients done, 5:00 left in this round's training"


def test_first_round_starts_after_the_initial_evaluation(bench: Bench) -> None:
    recorder = bench.start()
    bench.now += 7.0
    recorder.note_initial(test_loss=2.3, test_accuracy=0.1)
    assert bench.lines == ["Before training: test accuracy 0.1000, test loss 2.3000"]
    assert bench.round(seconds=10.0)["round_seconds"] == 10.0


def test_summary(bench: Bench) -> None:
    recorder = bench.start()
    recorder.note_initial(test_loss=2.3, test_accuracy=0.1)
    for accuracy in (0.5, 0.7, 0.6):
        bench.round(
            test_accuracy=accuracy,
            test_loss=1 - accuracy,
            num_examples=900,
            train_seconds=6.0,
            failed_clients=[1] if accuracy == 0.7 else [],
            cut_uplink_bytes=1000,
            cut_downlink_bytes=900,
            evaluate_uplink_bytes=100,
            evaluate_downlink_bytes=10,
            sync_uplink_bytes=50,
            sync_downlink_bytes=60,
        )
    summary = recorder.finish()
    assert summary == json.loads(bench.directory.summary_path.read_text())
    assert set(summary) >= CONTRACT_KEYS
    expected = {
        "strategy": "sflv1",
        "model": "vit-nano",
        "dataset": "fashion-mini",
        "num_rounds": 3,
        "finished_rounds": 3,
        "cut_layer": 1,
        "initial_accuracy": 0.1,
        "initial_loss": 2.3,
        "final_accuracy": 0.6,
        "final_loss": 0.4,
        "best_accuracy": 0.7,
        "best_round": 2,
        "cut_uplink_bytes": 3000,
        "cut_downlink_bytes": 2700,
        "evaluate_uplink_bytes": 300,
        "evaluate_downlink_bytes": 30,
        "sync_uplink_bytes": 150,
        "sync_downlink_bytes": 180,
        "failed_clients": 1,
        "wall_seconds": 30.0,
        "train_samples_per_second": 150.0,
        "run_directory": str(bench.directory.path),
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["torch_version"].startswith("2.")


def test_summary_of_an_unsplit_run_without_evaluation(bench: Bench) -> None:
    bench.start(UNSPLIT_FACTS)
    bench.round(sync_uplink_bytes=50)
    summary = bench.recorder.finish()
    assert summary["cut_layer"] is None
    assert (summary["cut_uplink_bytes"], summary["sync_uplink_bytes"]) == (0, 50)
    for key in ("final_accuracy", "best_accuracy", "best_round", "train_samples_per_second"):
        assert summary[key] is None


def test_summary_without_any_round(bench: Bench) -> None:
    summary = bench.start().finish()
    assert (summary["finished_rounds"], summary["final_accuracy"]) == (0, None)


def test_a_start_without_or_with_other_facts_is_refused(bench: Bench) -> None:
    facts = {key: value for key, value in SPLIT_FACTS.items() if key != "engine"}
    with pytest.raises(TypeError, match=r"Missing: engine; unknown: motor\."):
        bench.recorder.start(facts | {"motor": "inprocess"})


def test_the_summary_has_its_keys_in_order_and_nothing_of_metrics(bench: Bench) -> None:
    """Break it: write an empty list of declared metrics."""
    bench.start()
    bench.round(test_accuracy=0.5)
    assert tuple(bench.recorder.finish()) == SUMMARY_KEYS


def test_declared_metrics_reach_rows_and_summary(bench: Bench) -> None:
    """Break it: leave the metrics out of the row's keys, or of the summary."""
    bench.recorder.start(SPLIT_FACTS, metrics=METRICS)
    bench.round(smashed_norm=2.0, hostile=100, per_round=7.0)
    bench.round(hostile=23, smashed_norm=math.nan)
    first, second = map(json.loads, bench.directory.rounds_path.read_text().splitlines())
    keys = ("smashed_norm", "hostile", "per_round")
    assert tuple(first) == (*ROW_KEYS, *keys)
    assert [first[key] for key in keys] == [2.0, 100, 7.0]
    assert [second[key] for key in keys] == [None, 23, None]
    summary = bench.recorder.finish()
    assert summary == json.loads(bench.directory.summary_path.read_text())
    assert tuple(summary) == (*SUMMARY_KEYS, "smashed_norm", "hostile", DECLARED_KEY)
    assert (summary["smashed_norm"], summary["hostile"]) == (2.0, 123)
    assert declared_in(summary) == METRICS


def test_a_metric_that_is_not_declared_is_refused(bench: Bench) -> None:
    with pytest.raises(
        TypeError, match=r"has no smashed_norm\..*Declare .* fedsplit.fields.Metric"
    ):
        bench.start().note(smashed_norm=1.0)


def test_an_invalid_metric_is_refused_at_the_start(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="'train_loss' cannot be declared"):
        bench.recorder.start(SPLIT_FACTS, metrics=[FIELDS["train_loss"]])


def test_what_clients_measure_is_written_with_the_round(bench: Bench) -> None:
    """Break it: keep the results of a round for the next one."""
    bench.start()
    results = {3: {"examples": 9, "loss": 1.5, "accuracy": 0.25}}
    bench.recorder.note_clients(
        "train", {1: {"examples": 8, "loss": 2.0, "accuracy": 0.5}} | results
    )
    bench.recorder.note_clients("validation", {})
    bench.round()
    bench.round()  # a round of which nothing is known
    bench.recorder.note_clients("validation", results)
    bench.round()
    lines = bench.directory.client_results_path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "round": 1,
            "train": {
                "clients": [1, 3],
                "examples": [8, 9],
                "loss": [2.0, 1.5],
                "accuracy": [0.5, 0.25],
            },
        },
        {
            "round": 3,
            "validation": {"clients": [3], "examples": [9], "loss": [1.5], "accuracy": [0.25]},
        },
    ]
