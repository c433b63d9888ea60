"""Whole runs with one hostile client of four: it is named and left out, and costs nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flwr.app import ArrayRecord
from torch import Tensor

from fedsplit import client_app, simulate
from fedsplit.arrays import to_record, to_state
from fedsplit.boundary import State, each
from fedsplit.channel.frame import Kind
from fedsplit.split.client import SplitSession
from fedsplit.split.client_rules import SplitClient
from fedsplit.split.local import Batch
from fedsplit.split.totals import LocalResult

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

HOSTILE = 0
_Client: Any = vars(client_app)["_Client"]
Attack = Callable[[pytest.MonkeyPatch], None]


def ten_times_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = _Client.train_batches

    def batches(self: Any) -> Iterator[Batch]:  # noqa: ANN401
        for _ in range(10 if self.partition_id == HOSTILE else 1):
            yield from honest(self)

    monkeypatch.setattr(_Client, "train_batches", batches)


def scaled_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SplitClient.smashed

    def smashed(self: SplitClient, images: Tensor) -> State:
        state = honest(self, images)
        *_, client = self.side.draw.args  # type: ignore[attr-defined]
        return each(state, lambda t: t * 1e3) if client == HOSTILE else state

    monkeypatch.setattr(SplitClient, "smashed", smashed)


def scaled_output_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SplitSession._send

    def send(self: Any, kind: Kind, state: State, *more: Any, **scores: Any) -> Any:  # noqa: ANN401
        if kind is Kind.OUTPUT_GRADIENT and self._names[-1] == HOSTILE:
            state = each(state, lambda t: t * 1e4)
        return honest(self, kind, state, *more, **scores)

    monkeypatch.setattr(SplitSession, "_send", send)


def replies(change: Callable[[LocalResult], LocalResult]) -> Attack:
    def attack(monkeypatch: pytest.MonkeyPatch) -> None:
        honest = _Client.reply

        def reply(self: Any, result: LocalResult, *more: object) -> object:  # noqa: ANN401
            return honest(self, change(result) if self.partition_id == HOSTILE else result, *more)

        monkeypatch.setattr(_Client, "reply", reply)

    return attack


def scaled_weights(factor: float) -> Attack:
    def attack(monkeypatch: pytest.MonkeyPatch) -> None:
        honest = _Client.reply

        def reply(
            self: Any,  # noqa: ANN401
            result: LocalResult,
            rule: object = None,
            arrays: ArrayRecord | None = None,
        ) -> object:
            if arrays is not None and self.partition_id == HOSTILE:
                arrays = to_record({name: t * factor for name, t in to_state(arrays).items()})
            return honest(self, result, rule, arrays)

        monkeypatch.setattr(_Client, "reply", reply)

    return attack


large_weights, reversed_weights = scaled_weights(100.0), scaled_weights(-10.0)
lies_about_its_scores = replies(lambda result: result._replace(loss=0.0, accuracy=1.0))
claims_more_images = replies(lambda result: result._replace(num_examples=10**15))
SPLIT = ("sflv1", "sflv2", "sflv3", "parallel", "sequential")


@pytest.mark.parametrize(
    ("attack", "strategy", "words"),
    [
        *((ten_times_the_steps, name, "images of the client make at most") for name in SPLIT),
        *((scaled_activations, name, "of client 0 has values up to") for name in SPLIT),
        *((lies_about_its_scores, name, "where the split server saw") for name in SPLIT),
        *((claims_more_images, name, "where the split server saw") for name in SPLIT),
        *((large_weights, name, "its weights have moved by") for name in (*SPLIT, "full")),
        *((reversed_weights, name, "its weights have moved by") for name in ("sflv1", "full")),
        (claims_more_images, "full", "it claims 1000000000000000 examples, but it has"),
    ],
)
def test_it_is_named_and_left_out(
    attack: Attack,
    strategy: str,
    words: str,
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Break it: let `Exchange.work`, its `magnitudes`, or `Seen.scores` be None.

    Or let `UpdateNorms.faults` find none.
    """
    attack(monkeypatch)
    result = simulate(tiny, strategy=strategy, num_server_rounds=2, local_epochs=1)
    assert [row["failed_clients"] for row in result.rounds] == [[HOSTILE]] * 2
    said = [r.getMessage() for r in caplog.records if "is left out of round" in r.getMessage()]
    assert len(said) == 2
    assert all(line.startswith("Client 0 is left out of round") for line in said)
    assert all(words in line for line in said)


@pytest.mark.parametrize("strategy", SPLIT)
def test_a_u_shaped_client_with_absurd_output_gradients_is_left_out(
    strategy: str,
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Break it: leave OUTPUT_GRADIENT out of `magnitude_bounds`."""
    scaled_output_gradients(monkeypatch)
    result = simulate(
        tiny, strategy=strategy, split_topology="u-shaped", num_server_rounds=2, local_epochs=1
    )
    assert [row["failed_clients"] for row in result.rounds] == [[HOSTILE]] * 2
    said = [r.getMessage() for r in caplog.records if "is left out of round" in r.getMessage()]
    assert len(said) == 2
    assert all(
        "OUTPUT_GRADIENT" in line and "of client 0 has values up to" in line for line in said
    )
