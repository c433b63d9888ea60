from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedsplit.arrays import to_record, to_state
from fedsplit.config import AggregationConfig
from fedsplit.errors import RunError
from fedsplit.messages import Measurements
from strategies.aggregation import make_aggregator
from strategies.answers import Answered
from strategies.buffers import average_buffers
from strategies.combination import combine_contributions, combine_scores
from tests.strategies.grids import ScriptedGrid, describes

BUFFERS = frozenset({"norm.running_var", "norm.num_batches"})
GRID = ScriptedGrid({1: describes(0)})
MOVING = ["FedAvgM", "FedAdam", "FedYogi", "FedAdagrad"]
SENT: Mapping[str, Tensor] = {
    "norm.weight": torch.tensor([1.0, 2.0]),
    "norm.running_var": torch.tensor([1.0, 0.01]),
    "norm.num_batches": torch.tensor(10),
}


def _answered(*contributions: tuple[int, Mapping[str, Tensor]]) -> Answered:
    good, measured = {}, {}
    for client, (num_examples, weights) in enumerate(contributions):
        measured[client] = Measurements(
            num_examples=num_examples, loss=0.5, accuracy=0.25, channel_seconds=0.0
        )
        content = RecordDict(
            {"arrays": ArrayRecord(dict(weights)), "metrics": measured[client].to_record()}
        )
        good[client] = Message(content, reply_to=Message(RecordDict(), client + 1, "train"))
    return Answered(good, {}, measured, None, {}, {})


def _round(server_round: int, sent: Mapping[str, Tensor]) -> Answered:
    """Return two clients' contributions; their variances are small."""
    falling = sent["norm.running_var"] * 0.1
    return _answered(
        (30, {**sent, "norm.weight": sent["norm.weight"] + 1, "norm.running_var": falling}),
        (
            10,
            {
                **sent,
                "norm.weight": sent["norm.weight"] - 1,
                "norm.running_var": falling * 3,
                "norm.num_batches": torch.tensor(10 + 3 * server_round),
            },
        ),
    )


@pytest.mark.parametrize("name", MOVING)
def test_buffers_are_averaged_whatever_the_aggregator_does_with_parameters(name: str) -> None:
    """Parameters move as with this aggregator alone.

    Break it: let all arrays through the aggregator; variances become negative.
    """
    aggregator, alone = (make_aggregator(AggregationConfig(name=name)) for _ in range(2))
    sent: dict[str, Tensor] = dict(SENT)
    for server_round in (1, 2, 3, 4):
        record = to_record(sent)
        parameters = to_record({"norm.weight": sent["norm.weight"]})
        for strategy, arrays in ((aggregator, parameters), (alone, parameters)):
            list(strategy.configure_train(1, arrays, ConfigRecord(), GRID))
        arrays, _ = combine_contributions(
            aggregator, server_round, _round(server_round, sent), sent=record, buffers=BUFFERS
        )
        expected_variance = sent["norm.running_var"] * (0.1 * 30 + 0.3 * 10) / 40
        expected_count = round((10 * 30 + (10 + 3 * server_round) * 10) / 40)
        assert list(arrays) == list(SENT)
        plain = _answered(
            *(
                (n, {"norm.weight": sent["norm.weight"] + step})
                for n, step in ((30, 1.0), (10, -1.0))
            )
        )
        moved, _ = alone.aggregate_train(server_round, list(plain.good.values()))
        assert moved is not None
        new = to_state(arrays)
        torch.testing.assert_close(new["norm.running_var"], expected_variance)
        assert new["norm.num_batches"].dtype == torch.int64
        assert int(new["norm.num_batches"]) == expected_count
        torch.testing.assert_close(new["norm.weight"], to_state(moved)["norm.weight"].float())
        assert bool((new["norm.running_var"] > 0).all())
        sent = {**new, "norm.num_batches": torch.tensor(10)}


def test_averages_of_buffers_weigh_examples() -> None:
    """Break it: give each client the same weight, or truncate integers."""
    first = {**SENT, "norm.running_var": torch.tensor([4.0, 4.0])}
    second = {
        **SENT,
        "norm.running_var": torch.tensor([0.0, 8.0]),
        "norm.num_batches": torch.tensor(13),
    }
    averaged = to_state(average_buffers(_answered((3, first), (1, second)), BUFFERS))
    assert set(averaged) == BUFFERS
    assert averaged["norm.running_var"].tolist() == [3.0, 5.0]
    assert int(averaged["norm.num_batches"]) == 11  # 10.75


def test_clients_with_nothing_to_train_still_average_their_buffers() -> None:
    sent = {name: SENT[name] for name in BUFFERS}
    arrays, metrics = combine_contributions(
        make_aggregator(AggregationConfig()),
        1,
        _answered((1, sent), (3, {**sent, "norm.running_var": torch.tensor([5.0, 0.01])})),
        sent=to_record(sent),
        buffers=BUFFERS,
    )
    assert to_state(arrays)["norm.running_var"].tolist() == pytest.approx([4.0, 0.01])
    assert metrics["loss"] == 0.5


class _Nothing:
    def aggregate_train(
        self, server_round: int, replies: object
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return None, None


def test_an_aggregator_without_a_result_ends_the_run() -> None:
    """Break it: go on with the old weights; the server's half has moved."""
    with pytest.raises(RunError, match="_Nothing returns no weights for the 1 contributions"):
        combine_contributions(
            _Nothing(),  # type: ignore[arg-type]
            2,
            _answered((1, SENT)),
            sent=to_record(SENT),
            buffers=BUFFERS,
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Failing", r"Failing failed in round 2 \(ZeroDivisionError: by zero\)\. Correct it"),
        (
            "Renaming",
            r"returns other weights.*'my.norm.weight' is \(2,\), and nothing was",
        ),
    ],
)
def test_an_aggregator_of_the_users_own_is_not_trusted(name: str, said: str) -> None:
    """Break it: look up each returned weight by its name, which raises a KeyError."""
    aggregator = make_aggregator(AggregationConfig(name=f"tests.strategies.own:{name}"))
    with pytest.raises(RunError, match=said):
        combine_contributions(aggregator, 2, _round(2, SENT), sent=to_record(SENT), buffers=BUFFERS)


def test_loss_and_accuracy_are_averaged_whatever_the_aggregator_makes_of_them() -> None:
    aggregator = make_aggregator(AggregationConfig(name="tests.strategies.own:WithoutMetrics"))
    answered = _round(1, SENT)
    replies = list(answered.good.values())
    scores = combine_scores(aggregator, 1, replies)
    _, metrics = combine_contributions(
        aggregator, 1, answered, sent=to_record(SENT), buffers=BUFFERS
    )
    assert scores is not None
    assert (metrics["loss"], metrics["accuracy"]) == (0.5, 0.25)
    assert (scores["loss"], scores["accuracy"]) == (0.5, 0.25)
    assert combine_scores(aggregator, 1, []) is None
