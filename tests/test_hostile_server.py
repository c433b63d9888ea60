"""Whole runs with a hostile split server: each client refuses what it can tell is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from fedsplit import server_app, simulate
from fedsplit.channel.frame import Frame
from fedsplit.errors import RunError
from fedsplit.split.exchange import TrainingExchange
from fedsplit.split.wire import CUT_PREFIX, LOSS, NUM_CORRECT
from tests.conftest import TINY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


def large_gradients(frame: Frame) -> None:
    if frame.step:  # the first gradient of a run is compared with nothing
        for name, tensor in frame.tensors.items():
            if name.startswith(CUT_PREFIX):
                tensor.mul_(1e6)


def more_correct_than_examples(frame: Frame) -> None:
    frame.tensors[NUM_CORRECT].fill_(9)


def loss_below_0(frame: Frame) -> None:
    frame.tensors[LOSS].fill_(-1.0)


@pytest.mark.parametrize("strategy", ["sflv1", "parallel"])
@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (large_gradients, "than channel.cut-gradient-factor = 1000 times as large"),
        (more_correct_than_examples, "has 9 correct predictions for 8 examples"),
        (loss_below_0, "has the loss -1, and a cross-entropy is at least 0"),
    ],
)
def test_a_client_refuses_an_answer_that_cannot_be_right(
    attack: Any,  # noqa: ANN401
    said: str,
    strategy: str,
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Break it: leave `checks` out of the SplitSession that the ClientApp opens."""
    honest = TrainingExchange.answer

    def answer(exchange: TrainingExchange, frame: Frame) -> Frame:
        answered = honest(exchange, frame)
        attack(answered)
        return answered

    monkeypatch.setattr(TrainingExchange, "answer", answer)
    with pytest.raises(RunError, match="Every participant of round 1 failed") as caught:
        simulate(tiny, strategy=strategy)
    assert said in str(caught.value)


def test_what_was_seen_in_earlier_rounds_counts(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: do not call `note_gradients`; the first gradient of each round is then accepted."""
    honest, rounds = TrainingExchange.answer, []

    def answer(exchange: TrainingExchange, frame: Frame) -> Frame:
        answered = honest(exchange, frame)
        _, server_round, _ = exchange._names
        rounds.append(server_round)
        if server_round == 2:
            answered.tensors[f"{CUT_PREFIX}hidden"].mul_(1e6)
        return answered

    monkeypatch.setattr(TrainingExchange, "answer", answer)
    said = r"Every participant of round 2 failed.*CUT_GRADIENT .*step 0"
    with pytest.raises(RunError, match=said):
        simulate(tiny)
    assert rounds.count(2) == TINY["num-clients"]


@pytest.mark.parametrize("strategy", ["sflv1", "sequential"])
def test_a_client_connects_to_no_other_machine(
    strategy: str, tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: hand `told.channel_address` to `connect` unchecked."""
    honest = server_app._instructions

    def instructions(*given: Any) -> Any:  # noqa: ANN401
        return honest(*given).model_copy(update={"channel_address": "192.0.2.7:9400"})

    monkeypatch.setattr(server_app, "_instructions", instructions)
    with pytest.raises(RunError, match=r"channel address '192\.0\.2\.7:9400', which is another"):
        simulate(tiny, strategy=strategy, num_server_rounds=1)
