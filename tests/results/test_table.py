from __future__ import annotations

import re

import pytest

from fedsplit.fields import Metric
from fedsplit.results.table import results_table
from tests.results.examples import METRICS, UNSPLIT_FACTS, a_row, a_summary


def shown_rounds(text: str) -> list[int]:
    return [int(match) for match in re.findall(r"^ +(\d+)  +[\d.e+-]+ ", text, flags=re.MULTILINE)]


def test_few_rounds_are_all_shown() -> None:
    rows = [a_row(number) for number in range(1, 16)]
    text = results_table(rows, a_summary(rows))
    assert shown_rounds(text) == list(range(1, 16))
    assert re.search(r"^ +4  0\.5000  0\.6250  0\.7000\* +- +0  1\.00 MB", text, re.MULTILINE)


def test_many_rounds_are_reduced_to_first_best_last_and_some_between() -> None:
    rows = [a_row(number) for number in range(1, 48)]
    text = results_table(rows, a_summary(rows))
    assert shown_rounds(text) == [1, 4, 5, 10, 15, 20, 25, 30, 35, 40, 45, 47]
    assert text.count("*") == 1


def test_lines_below_the_rounds() -> None:
    rows = [a_row(number) for number in range(1, 6)]
    lines = [line.strip() for line in results_table(rows, a_summary(rows)).splitlines()]
    assert lines[0] == (
        "sflv1 (cut 1), vit-nano on fashion-mini (iid), 10 clients, 5 rounds, seed 42"
    )
    assert lines[-8:] == [
        "Test accuracy    0.6950 final, 0.7000 best (round 4), 0.1000 before training",
        "Cut traffic      5.00 MB up, 5.00 MB down",
        "Evaluation       5.00 MB up, 5.00 MB down",
        "Synchronisation  5.00 MB up, 5.00 MB down",
        "Client           4,352 parameters, 201 kFLOP per training sample, 170 kB to train",
        "Server           205,648 parameters, 19.9 MFLOP per training sample, 135 MB to train",
        "Time             12.0 s, 250 training samples/s, 200 ms per client-round",
        "Run directory    /runs/example",
    ]


def test_communication_is_shown_only_with_a_network_profile() -> None:
    times = {"simulated_communication_seconds": 40.0, "communication_seconds": 0.25}
    rows = [a_row(1, **times), a_row(2, **times)]
    shown = results_table(rows, a_summary(rows, network_profile="4g"))
    assert (
        "  Communication    1:20 min simulated on 4g, 0.5 s measured here without server" in shown
    )
    assert "Communication" not in results_table(rows, a_summary(rows))
    rows = [row | {"communication_seconds": None} for row in rows]
    shown = results_table(rows, a_summary(rows, UNSPLIT_FACTS, network_profile="4g"))
    assert "  Communication    1:20 min simulated on 4g\n" in shown


def test_an_unsplit_run_has_no_cut() -> None:
    rows = [a_row(1, cut_uplink_bytes=None, cut_downlink_bytes=None)]
    text = results_table(rows, a_summary(rows, UNSPLIT_FACTS, strategy="full"))
    assert text.startswith("full (unsplit), ")
    assert "cut" not in text.lower()
    assert "holds no part of the model" in text


@pytest.mark.parametrize("num_rounds", [0, 1, 16, 1000])
@pytest.mark.parametrize("split", [True, False])
def test_extreme_values_fit_100_columns_without_ellipsis(num_rounds: int, split: bool) -> None:
    huge = {
        f"{purpose}_{direction}_bytes": 4_567_891_234_567_891_234
        for purpose in ("cut", "evaluate", "sync")
        for direction in ("uplink", "downlink")
    }
    values = huge | {"test_accuracy": None, "train_loss": 1.23456e38, "round_seconds": 123_456.7}
    rows = [a_row(number, **values) for number in range(1, num_rounds + 1)]
    summary = a_summary(rows) | {"model": "m" * 150, "dataset": "some where/" * 20}
    text = results_table(rows, summary | ({} if split else {"cut_layer": None}))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    assert not rows or "1.2e+38" in text


def test_the_run_directory_stays_in_one_piece() -> None:
    path = "/" + "deep/" * 40
    text = results_table([a_row(1)], a_summary([a_row(1)]) | {"run_directory": path})
    assert text.splitlines()[-1].endswith(" " + path)


def test_a_run_that_stopped_early_says_so() -> None:
    rows = [a_row(1), a_row(2)]
    text = results_table(rows, a_summary(rows) | {"num_rounds": 9})
    assert "2 of 9 rounds" in text


def test_a_name_with_a_line_break_keeps_its_line() -> None:
    names = {"dataset": "/data/a\nb", "run_directory": "/runs/c\nd"}
    lines = results_table([], a_summary([]) | names).splitlines()
    assert "on /data/a\ufffdb (iid)" in lines[0]
    assert lines[-1].endswith("/runs/c\ufffdd")


def test_declared_metrics_have_lines_of_their_own() -> None:
    """Break it: let rich read :warning: as an emoji, or show what the summary does not have."""
    rows = [a_row(n, smashed_norm=1.23456 * n, hostile=10**6, per_round=1.0) for n in (1, 2)]
    lines = results_table(rows, a_summary(rows, metrics=METRICS)).splitlines()
    assert lines[-3:-1] == [
        "  Metrics          norm of the smashed data: 2.469 (last round)",
        "                   <b>$a_$|:warning: [red]: 2.00 MB (sum over rounds)",
    ]
    without = results_table(rows, a_summary(rows)).splitlines()
    assert without == [line for line in lines if line not in lines[-3:-1]]


def test_metrics_of_any_size_fit_100_columns() -> None:
    metrics = [Metric(f"metric_{n}", "w" * 60, "u" * 16, over_rounds="mean") for n in range(3)]
    rows = [a_row(1, **{metric.key: -1.23456e-300 for metric in metrics})]
    text = results_table(rows, a_summary(rows, metrics=metrics))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("-1.235e-300") == 3
