"""A whole run's byte counts against a count of our own, of every frame and every message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from threading import Lock

import pytest
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedsplit import simulate
from fedsplit.channel.codec import encode
from fedsplit.channel.direct import DirectStream
from fedsplit.channel.frame import Frame
from fedsplit.inprocess import InProcessGrid

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


@pytest.mark.parametrize(
    ("strategy", "topology"),
    [
        *[(strategy, "vanilla") for strategy in ("sflv1", "sflv2", "sequential", "full")],
        *[(strategy, "u-shaped") for strategy in ("sflv1", "sflv3", "parallel")],
    ],
)
def test_the_totals_are_those_of_what_crossed(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, strategy: str, topology: str
) -> None:
    """Break it: leave `FINISH` out of the ledger, or count a message's weights once for all."""
    counted: Counter[str] = Counter()
    lock = Lock()  # clients are threads
    exchange, send = DirectStream.exchange, InProcessGrid.send_and_receive

    def exchanged(stream: DirectStream, frame: Frame) -> Frame:
        answer = exchange(stream, frame)
        with lock:
            counted["frames up"] += len(encode(frame))
            counted["frames down"] += len(encode(answer))
        return answer

    def sent(
        grid: InProcessGrid, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        kinds = {message.metadata.message_type for message in asked}
        counted[f"{'-'.join(kinds)} down"] += sum(map(_weights_in, asked))
        replies = list(send(grid, asked, timeout=timeout))
        counted[f"{'-'.join(kinds)} up"] += sum(map(_weights_in, replies))
        if kinds == {"query.describe"}:  # the rendezvous: no round
            counted.clear()
        return replies

    monkeypatch.setattr(DirectStream, "exchange", exchanged)
    monkeypatch.setattr(InProcessGrid, "send_and_receive", sent)
    summary = simulate(tiny, strategy=strategy, split_topology=topology).summary

    for way, there in (("uplink", "up"), ("downlink", "down")):
        total = sum(summary[f"{what}_{way}_bytes"] for what in ("cut", "evaluate", "sync"))
        assert total == sum(counted[f"{what} {there}"] for what in ("frames", "evaluate", "train"))
        if strategy != "sflv3":  # whose clients send their bottoms for one purpose: to be scored
            assert summary[f"sync_{way}_bytes"] == counted[f"train {there}"]
    assert counted["train up"] > 10_000
    assert (counted["frames up"] > 100_000) is (strategy != "full")


def _weights_in(message: Message) -> int:
    """Return the length of all that Flower stores of a message's weights, each object once."""
    return sum(
        len(thing.deflate())
        for record in message.content.array_records.values()
        for thing in get_all_nested_objects(record).values()
    )
