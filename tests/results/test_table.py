from __future__ import annotations

import pytest

from fedsplit.fields import Metric
from fedsplit.results.table import faults_of, results_table
from tests.results.examples import METRICS, UNSPLIT_FACTS, a_row, a_summary


def test_lines_of_the_results() -> None:
    rows = [a_row(number) for number in range(1, 6)]
    lines = [line.strip() for line in results_table(a_summary(rows)).splitlines()]
    assert lines[1] == (
        "sflv1 (cut 1), vit-nano on fashion-mini (iid), 10 clients, 5 rounds, seed 42"
    )
    assert lines[3:] == [
        "Test accuracy    0.6950 final, 0.7000 best (round 4), 0.1000 before training",
        "Cut traffic      5.00 MB up, 5.00 MB down",
        "Evaluation       5.00 MB up, 5.00 MB down",
        "Synchronisation  5.00 MB up, 5.00 MB down",
        "Client           4,352 parameters, 201 kFLOP a sample, 170 kB to train",
        "Server           205,648 parameters, 19.9 MFLOP a sample, 135 MB to train",
        "Time             12.0 s, 250 training samples/s, 200 ms per client-round",
        "Run directory    /runs/example",
    ]


@pytest.mark.parametrize(
    ("loss", "accuracy", "said"),
    [(None, 0.1, "not a finite number"), (9.0, 0.1, "is 9.0000 after the last round")],
)
def test_divergence_is_a_fault(loss: float | None, accuracy: float, said: str) -> None:
    """Break it: judge by the accuracy alone."""
    summary = a_summary([a_row(1)]) | {"final_loss": loss, "final_accuracy": accuracy}
    (fault,) = faults_of(summary)
    assert "has diverged" in fault
    assert said in fault
    assert "lower learning-rate" in fault


@pytest.mark.parametrize(("loss", "accuracy"), [(0.5, 0.1), (9.0, 0.9)])
def test_training_that_has_learnt_something_has_no_fault(loss: float, accuracy: float) -> None:
    """Break it: call a higher loss with a higher accuracy a divergence; it is overconfidence."""
    summary = a_summary([a_row(1)]) | {"final_loss": loss, "final_accuracy": accuracy}
    assert faults_of(summary) == []


def test_communication_is_shown_only_with_a_network_profile() -> None:
    times = {"simulated_communication_seconds": 40.0, "communication_seconds": 0.25}
    rows = [a_row(1, **times), a_row(2, **times)]
    shown = results_table(a_summary(rows, network_profile="4g"))
    assert (
        "  Communication    1:20 min simulated on 4g, 0.5 s measured here without server" in shown
    )
    assert "Communication" not in results_table(a_summary(rows))
    rows = [row | {"communication_seconds": None} for row in rows]
    shown = results_table(a_summary(rows, UNSPLIT_FACTS, network_profile="4g"))
    assert "  Communication    1:20 min simulated on 4g\n" in shown


def test_an_unsplit_run_has_no_cut() -> None:
    rows = [a_row(1, cut_uplink_bytes=None, cut_downlink_bytes=None)]
    text = results_table(a_summary(rows, UNSPLIT_FACTS, strategy="full"))
    assert text.startswith("\nfull (unsplit), ")
    assert "cut" not in text.lower()
    assert "holds no part of the model" in text


@pytest.mark.parametrize("num_rounds", [0, 1, 16, 1000])
@pytest.mark.parametrize("split", [True, False])
def test_extreme_values_fit_80_columns_without_ellipsis(num_rounds: int, split: bool) -> None:
    huge = {
        f"{purpose}_{direction}_bytes": 4_567_891_234_567_891_234
        for purpose in ("cut", "evaluate", "sync")
        for direction in ("uplink", "downlink")
    }
    values = huge | {"test_accuracy": None, "train_loss": 1.23456e38, "round_seconds": 123_456.7}
    rows = [a_row(number, **values) for number in range(1, num_rounds + 1)]
    summary = a_summary(rows) | {"model": "m" * 150, "dataset": "some where/" * 20}
    text = results_table(summary | ({} if split else {"cut_layer": None}))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_the_run_directory_stays_in_one_piece() -> None:
    path = "/" + "deep/" * 40
    text = results_table(a_summary([a_row(1)]) | {"run_directory": path})
    assert text.splitlines()[-1].endswith(" " + path)


def test_a_run_that_stopped_early_says_so() -> None:
    rows = [a_row(1), a_row(2)]
    text = results_table(a_summary(rows) | {"num_rounds": 9})
    assert "2 of 9 rounds" in text


def test_a_name_with_a_line_break_keeps_its_line() -> None:
    names = {"dataset": "/data/a\nb", "run_directory": "/runs/c\nd"}
    lines = results_table(a_summary([]) | names).splitlines()
    assert "on /data/a\ufffdb (iid)" in lines[1]
    assert lines[-1].endswith("/runs/c\ufffdd")


def test_declared_metrics_have_lines_of_their_own() -> None:
    """Break it: let rich read :warning: as an emoji, or show what the summary does not have."""
    rows = [a_row(n, smashed_norm=1.23456 * n, hostile=10**6, per_round=1.0) for n in (1, 2)]
    lines = results_table(a_summary(rows, metrics=METRICS)).splitlines()
    assert lines[-3:-1] == [
        "  Metrics          norm of the smashed data: 2.469 (last round)",
        "                   <b>$a_$|:warning: [red]: 2.00 MB (sum over rounds)",
    ]
    without = results_table(a_summary(rows)).splitlines()
    assert without == [line for line in lines if line not in lines[-3:-1]]


def test_metrics_of_any_size_fit_80_columns() -> None:
    metrics = [Metric(f"metric_{n}", "w" * 60, "u" * 16, over_rounds="mean") for n in range(3)]
    rows = [a_row(1, **{metric.key: -1.23456e-300 for metric in metrics})]
    text = results_table(a_summary(rows, metrics=metrics))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("-1.235e-300") == 3
