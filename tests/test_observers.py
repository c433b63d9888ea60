from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fedsplit import Metric, StopRun
from fedsplit.errors import ConfigError, RunError
from fedsplit.observers import Observers

HITS = Metric("hits", "hits")
ROW = {"round": 3, "test_accuracy": 0.5, "failed_clients": []}


def _hits(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(-1) == labels).float().mean().item()


def test_callbacks_get_a_copy_of_the_row_in_their_order() -> None:
    """Break it: hand out the row itself."""
    seen: list[Any] = []

    def spoil(row: dict[str, Any]) -> None:
        row["failed_clients"].append(1)
        del row["round"]

    assert Observers([spoil, seen.append]).tell(ROW) is None
    assert seen == [ROW] == [{"round": 3, "test_accuracy": 0.5, "failed_clients": []}]


def test_the_first_that_is_raised_counts_and_the_others_are_called() -> None:
    seen: list[Any] = []

    def stop(row: dict[str, Any]) -> None:
        raise StopRun("enough")

    def fail(row: dict[str, Any]) -> None:
        raise ZeroDivisionError("by zero")

    raised = Observers([stop, fail, seen.append]).tell(ROW)
    assert isinstance(raised, StopRun)
    assert str(raised) == "enough"
    assert seen == [ROW]
    failed = Observers([fail, stop]).tell(ROW)
    assert isinstance(failed, RunError)
    assert str(failed).startswith(
        "The callback fail failed after round 3 (ZeroDivisionError: by zero). Correct it"
    )
    assert isinstance(failed.__cause__, ZeroDivisionError)


def test_a_metric_is_measured_on_its_own_copies() -> None:
    """Break it: pass the logits on, which a function may change for the next one."""
    logits, labels = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])

    def spoil(logits: Tensor, labels: Tensor) -> Tensor:
        labels.fill_(1)
        return logits.zero_().sum()

    observers = Observers(metrics={Metric("spoil", "spoil"): spoil, HITS: _hits})
    assert observers.measured(logits, labels) == {"spoil": 0.0, "hits": 0.5}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "'hits' is nan. Let its function return a finite number"),
        ("many", r"cannot be measured \(ValueError: .*logits \[2, 2\] and labels \[2\]"),
        (torch.zeros(2), r"cannot be measured \(ValueError: only one"),
        (None, r"cannot be measured \(TypeError"),
    ],
)
def test_what_is_no_number_ends_the_run(value: object, said: str) -> None:
    observers = Observers(metrics={HITS: cast(Any, lambda logits, labels: value)})
    with pytest.raises(RunError, match=said):
        observers.measured(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"callbacks": print}, r"callbacks = <built-in.*is no list.*callbacks=\[print\]"),
        ({"callbacks": [3]}, "callbacks: 3 cannot be called"),
        ({"metrics": [_hits]}, "is no mapping. Give each metric with its function"),
        ({"metrics": {"hits": _hits}}, r"must be a Metric\(key, label, \.\.\.\), not 'hits'"),
        ({"metrics": {HITS: 0.5}}, "metrics: hits: 0.5 cannot be called"),
        (
            {"metrics": {HITS: _hits, Metric("hits", "others"): _hits}},
            "'hits' is declared twice with different descriptions",
        ),
    ],
)
def test_what_would_fail_in_the_first_round_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Observers(**given)


def test_a_metric_of_the_strategys_own_is_not_replaced() -> None:
    with pytest.raises(ConfigError, match="'hits' is declared by the strategy, too"):
        Observers(metrics={HITS: _hits}).check_apart([HITS])
