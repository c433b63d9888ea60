from __future__ import annotations

import pytest

from fedsplit.channel.ledger import Traffic
from fedsplit.messages import Measurements
from fedsplit.split.client_rules import SplitClient, WholeModel
from fedsplit.split.phases import Purpose
from fedsplit.split.server import RoundReport
from fedsplit.split.totals import LocalResult, Work
from strategies.seen import Seen

REPORT = RoundReport(Traffic(), {1: 8}, {}, {}, {1: LocalResult(8, 0.5, 0.25)})
WORK = Work.of(10, 4)


class Other(SplitClient):
    scores_on_server = False


class Some(SplitClient):
    sends_every_batch = False


class Twice(SplitClient):
    steps_per_batch = 2


class SometimesTwice(Twice):
    sends_every_batch = False


def told(count: int, loss: float = 0.5, accuracy: float = 0.25) -> Measurements:
    return Measurements(num_examples=count, loss=loss, accuracy=accuracy, channel_seconds=0.0)


def test_without_a_server_a_client_cannot_claim_more_than_its_images_make() -> None:
    """Break it: believe it, and one client has all the weight in the average."""
    seen = Seen.of(1, None, WORK, WholeModel, Purpose.TRAIN)
    assert seen.fault_of(told(10)) is None
    assert seen.fault_of(told(0)) is None
    assert seen.fault_of(told(10**15)) == (
        "it claims 1000000000000000 examples, but it has 10 in a round"
    )


@pytest.mark.parametrize("purpose", [Purpose.TRAIN, Purpose.EVALUATE])
def test_the_server_has_counted_and_scored_every_batch(purpose: Purpose) -> None:
    """Break it: believe the client's loss and accuracy."""
    seen = Seen.of(1, REPORT, WORK, SplitClient, purpose)
    assert seen.fault_of(told(8)) is None
    for wrong in (told(7), told(9)):
        claims = f"it claims {wrong.num_examples} examples where the split server saw 8"
        assert seen.fault_of(wrong) == claims
    for wrong in (told(8, loss=0.4), told(8, accuracy=1.0)):
        assert "where the split server saw 0.5 and 0.25 (" in str(seen.fault_of(wrong))


def test_a_rule_that_reports_another_score_is_only_counted() -> None:
    seen = Seen.of(1, REPORT, WORK, Other, Purpose.TRAIN)
    assert seen.fault_of(told(8, loss=7.0)) is None
    assert seen.fault_of(told(9)) is not None


def test_a_rule_that_sends_some_batches_has_a_lower_and_an_upper_bound() -> None:
    seen = Seen.of(1, REPORT, WORK, Some, Purpose.TRAIN)
    assert [seen.fault_of(told(count)) is None for count in (7, 8, 10, 11)] == [
        *(False, True, True, False),
    ]


def test_each_fault_has_a_message_of_its_own() -> None:
    """Break it: let one message serve two conditions."""
    some = Seen.of(1, REPORT, WORK, Some, Purpose.TRAIN)
    assert some.fault_of(told(7)) == (
        "it claims 7 examples, but the split server received 8 or more"
    )
    assert some.fault_of(told(11)) == "it claims 11 examples, but it has 10 in a round"
    every = Seen.of(2, REPORT, WORK, SplitClient, Purpose.TRAIN)
    assert every.fault_of(told(3)) == "it claims 3 examples where the split server saw 0"


def test_a_batch_that_is_sent_twice_counts_once() -> None:
    """Break it: count it twice; the honest client then claims too little."""
    work = Work.of(4, 4, steps_per_batch=2)
    assert work == (4, 2, 8, 2)
    twice = Seen.of(1, REPORT, work, Twice, Purpose.TRAIN)
    assert twice.fault_of(told(4, loss=7.0)) is None
    assert twice.fault_of(told(8)) == (
        "it claims 8 examples where the split server saw 4 (its rule has steps_per_batch = 2)"
    )
    some = Seen.of(1, REPORT, work, SometimesTwice, Purpose.TRAIN)
    assert [some.fault_of(told(count)) is None for count in (3, 4, 5)] == [False, True, False]


def test_a_client_that_sent_nothing_has_done_nothing() -> None:
    seen = Seen.of(2, REPORT, WORK, SplitClient, Purpose.TRAIN)
    assert seen.fault_of(told(0)) is None
    assert seen.fault_of(told(3)) is not None
