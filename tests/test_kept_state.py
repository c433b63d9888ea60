"""What a client keeps between rounds is of the last that counted, or it says that it is not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from flwr.app import Context, Message, RecordDict

from fedsplit.client_app import app as client_app
from fedsplit.messages import CONFIG, METRICS
from tests.conftest import Run, distance, weights

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]

KEPT: dict[str, object] = {"client-optimizer": "kept", "num-server-rounds": 4}
CLIENT = 1
Handle = Callable[[Message, Context], Message]


def _is_training(message: Message, context: Context, server_round: int) -> bool:
    told = message.content.config_records[CONFIG]
    of_client = context.node_config["partition-id"] == CLIENT
    is_train = message.metadata.message_type.startswith("train")
    return of_client and is_train and told["server-round"] == server_round


def _with(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsplit.inprocess.client_app", handle)


def _spoiled(message: Message, context: Context) -> Message:
    """Train all the same; so what the client keeps is of a round that does not count."""
    reply = client_app(message, context)
    if _is_training(message, context, 2):
        del reply.content[METRICS]
    return reply


def _not_begun(message: Message, context: Context) -> Message:
    if _is_training(message, context, 2):
        message.content.config_records[CONFIG]["num-labels"] = -1
    return client_app(message, context)


@pytest.mark.parametrize("strategy", ["full", "sflv3"])
def test_a_round_that_does_not_count_leaves_no_trace_in_what_a_client_keeps(
    run: Run, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Break it: send no copy after a failure; the optimizer then goes on from the lost round."""
    ended = []
    for handle in (_spoiled, _not_begun):
        _with(handle, monkeypatch)
        ended.append(run(again=True, strategy=strategy, **KEPT))
        assert [row["failed_clients"] for row in ended[-1].rounds] == [[], [CLIENT], [], []]
        assert [row["resent_bytes"] > 0 for row in ended[-1].rounds] == [False, True, False, False]
    assert distance(weights(ended[0]), weights(ended[1])) == 0.0


@pytest.mark.parametrize("every", [0, 1])
def test_a_state_of_another_round_is_refused_and_costs_the_client_one_round(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    every: int,
) -> None:
    """A ClientApp that slept wakes up, and Flower puts its old state in the place of the new."""
    old: list[RecordDict] = []

    def handle(message: Message, context: Context) -> Message:
        if _is_training(message, context, 3):
            context.state = copy.deepcopy(old[0])
        reply = client_app(message, context)
        if _is_training(message, context, 1):
            old.append(copy.deepcopy(context.state))
        return reply

    _with(handle, monkeypatch)
    ended = run(again=True, strategy="full", checkpoint_every=every, **KEPT)
    assert [row["failed_clients"] for row in ended.rounds] == [[], [], [CLIENT], []]
    assert "is of round 1, but the last of its rounds that counted is 2" in caplog.text


def test_evaluation_sends_no_copies(run: Run) -> None:
    """Break it: copy what is kept into every reply."""
    sent = [
        run(strategy="full", fraction_evaluate=fraction, **KEPT).summary["kept_uplink_bytes"]
        for fraction in (0.0, 1.0)
    ]
    assert sent[0] == sent[1] > 0
