from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedMedian
from torch import Tensor, nn

from fedsplit.arrays import to_record, to_state
from fedsplit.config import AggregationConfig
from fedsplit.exchanged_state import exchanged
from fedsplit.messages import Measurements
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from strategies.aggregation import make_aggregator
from strategies.answers import Answered
from strategies.halves import Halves
from tests.split.toys import config_of, settings_of

SENT = {"w": torch.zeros(3)}
SIZES = {0: 1, 1: 1, 2: 8}
HOSTILE = 2


def server_part_of() -> nn.Module:
    """A server part that uses the client's name, with parameters, statistics and a counter."""
    part = nn.Module()
    part.register_parameter("w", nn.Parameter(torch.zeros(2)))
    part.register_buffer("seen", torch.zeros(1))
    part.register_buffer("count", torch.tensor(0))
    return part


def value_of(client: int) -> float:
    return 1e6 if client == HOSTILE else 1.0 + client


def answered_of() -> Answered:
    good, measured = {}, {}
    for client, count in SIZES.items():
        measured[client] = Measurements(
            num_examples=count, loss=0.5, accuracy=0.25, channel_seconds=0.0
        )
        arrays = to_record({"w": torch.full((3,), value_of(client))})
        content = RecordDict({"arrays": arrays, "metrics": measured[client].to_record()})
        good[client] = Message(content, reply_to=Message(RecordDict(), client + 1, "train"))
    return Answered(good, {}, measured, None, {}, {})


@pytest.fixture
def rule() -> Iterator[PerParticipantCopies]:
    """A round of three copies, trained by hand."""
    found = PerParticipantCopies(server_part_of(), settings_of(config_of()))
    for client in SIZES:
        found.begin(client)
        copy = found.training_now[client]
        with torch.no_grad():
            for tensor in (copy.w, copy.seen):
                assert isinstance(tensor, Tensor)
                tensor.fill_(value_of(client))
            assert isinstance(copy.count, Tensor)
            copy.count.fill_(client)
        found.finish(client)
    yield found
    found.close()


def combined(name: str, rule: PerParticipantCopies) -> tuple[Mapping[str, Tensor], ArrayRecord]:
    halves = Halves(make_aggregator(AggregationConfig(name=name)), frozenset(), rule)
    arrays, _ = halves.combine(1, answered_of(), to_record(SENT))
    rule.close_round(SIZES)
    return exchanged(rule.server_part), arrays


@pytest.mark.parametrize("name", ["FedMedian", "Krum"])
def test_a_robust_aggregator_protects_both_halves(name: str, rule: PerParticipantCopies) -> None:
    """Statistics too, but a counter is averaged by n_k.

    Break it: average the copies or the statistics, or let one half's name hide the other's.
    """
    server, arrays = combined(name, rule)
    assert list(arrays) == ["w"]
    for tensor in (server["w"], server["seen"], to_state(arrays)["w"]):
        assert float(tensor.max()) in (1.0, 2.0)
    assert int(server["count"]) == round((1 + 2 * 8) / 10)


def test_other_aggregators_combine_what_clients_train(rule: PerParticipantCopies) -> None:
    """Break it: give every aggregator the copies."""
    server, arrays = combined("FedAvg", rule)
    mean = sum(value_of(k) * n / 10 for k, n in SIZES.items())
    assert server["w"].tolist() == pytest.approx([mean] * 2)
    assert to_state(arrays)["w"].tolist() == pytest.approx([mean] * 3)


def test_copies_alone_leave_the_replies_as_they_are(rule: PerParticipantCopies) -> None:
    """Break it: do not put the clients' own weights back."""
    halves = Halves(make_aggregator(AggregationConfig(name="FedMedian")), frozenset(), rule)
    answered = answered_of()
    halves.combine_copies(1, answered)
    rule.close_round(SIZES)
    assert exchanged(rule.server_part)["w"].tolist() == [2.0, 2.0]
    weights = {k: to_state(r.content.array_records["arrays"]) for k, r in answered.good.items()}
    assert {k: float(w["w"][0]) for k, w in weights.items()} == {k: value_of(k) for k in SIZES}


def test_a_chosen_round_does_not_decide_the_next(rule: PerParticipantCopies) -> None:
    """Break it: keep what was chosen in `PerParticipantCopies.close_round`."""
    combined("FedMedian", rule)
    for client in (0, 1):
        rule.begin(client)
        with torch.no_grad():
            next(rule.training_now[client].parameters()).fill_(5.0)
        rule.finish(client)
    rule.close_round({0: 1, 1: 1})
    assert exchanged(rule.server_part)["w"].tolist() == [5.0, 5.0]


def test_one_shared_server_part_is_named_in_a_warning(rule: PerParticipantCopies) -> None:
    """Break it: say nothing; a run then looks protected and is not."""
    shared = InTurn(server_part_of(), settings_of(config_of()))
    median = make_aggregator(AggregationConfig(name="FedMedian"))
    (said,) = Halves(median, frozenset(), shared).warnings(3)
    assert said.startswith("The aggregator FedMedian protects only what clients train: the update")
    assert "rule InTurn trains one server part" in said
    assert Halves(median, frozenset(), rule).warnings(3) == []
    assert Halves(median, frozenset(), None).warnings(3) == []
    assert Halves(make_aggregator(AggregationConfig()), frozenset(), shared).warnings(3) == []
    shared.close()


def test_a_robust_rule_that_resists_nobody_is_named_in_a_warning() -> None:
    """Of 4 contributions, a trimmed mean with beta = 0.2 is a plain mean.

    Break it: say nothing; a run then looks protected and is not.
    """
    trimmed = make_aggregator(AggregationConfig(name="FedTrimmedAvg"))
    (said,) = Halves(trimmed, frozenset(), None).warnings(4)
    assert said.startswith("The aggregator FedTrimmedAvg resists no hostile client with these")
    assert "and 4 participants in a round" in said
    assert Halves(trimmed, frozenset(), None).warnings(5) == []


def test_a_wrapper_is_told_of_both_halves(rule: PerParticipantCopies) -> None:
    """Break it: configure the aggregator with the clients' part alone."""
    median = make_aggregator(AggregationConfig(name="FedMedian"))
    assert len(Halves(median, frozenset(), rule).parameters(to_record(SENT))) == 3
    plain = make_aggregator(AggregationConfig())
    assert list(Halves(plain, frozenset(), rule).parameters(to_record(SENT))) == ["w"]


class _Ordered(FedMedian):
    """Remember the names of the replies' weights, in order."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        self.names = [list(reply.content.array_records["arrays"]) for reply in replies]
        return super().aggregate_train(server_round, replies)


def test_replies_have_the_order_of_the_weights_that_were_sent(
    rule: PerParticipantCopies,
) -> None:
    """Flower's differential privacy subtracts one from the other by position.

    Break it: take a copy in the order of its file, which is alphabetical.
    """
    aggregator = _Ordered()
    halves = Halves(aggregator, frozenset(), rule)
    sent = list(halves.parameters(to_record(SENT)))
    halves.combine(1, answered_of(), to_record(SENT))
    assert sent == ["w", "server part: w", "server part: seen"]
    assert aggregator.names == [sent] * len(SIZES)


def test_noise_around_a_robust_rule_does_not_reach_statistics(rule: PerParticipantCopies) -> None:
    """A running variance below 0 gave NaN as every score, in a run that went on.

    Break it: ask whether an aggregator is robust, and not whether it stays among what it is given.
    """
    noisy = DifferentialPrivacyServerSideFixedClipping(
        FedMedian(), noise_multiplier=1e3, clipping_norm=1.0, num_sampled_clients=len(SIZES)
    )
    halves = Halves(noisy, frozenset(), rule)
    assert halves.warnings(3) == []
    noisy.current_arrays = halves.parameters(to_record(SENT))
    halves.combine(1, answered_of(), to_record(SENT))
    rule.close_round(SIZES)
    server = exchanged(rule.server_part)
    mean = sum(value_of(k) * n / 10 for k, n in SIZES.items())
    assert float(server["seen"]) == pytest.approx(mean)
    assert float(server["w"].abs().max()) > 10.0
