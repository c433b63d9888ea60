"""The bytes of a stream, predicted before anything is sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedsplit.channel.ledger import Traffic
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import RuleSettings
from fedsplit.split.server import SplitServer
from fedsplit.split.traffic import step_traffic, stream_traffic
from fedsplit.split.wire import Wire
from tests.channel.hosts import CountingProxy
from tests.split.toys import (
    CUT,
    TREE_CUT,
    Client,
    Serve,
    batches_of,
    bottom_of,
    server_part_of,
    settings_of,
)
from tests.split.ushaped import U_CUT, U_TREE_CUT, TopClient, top_of, trunk_of

SIZES = (8, 8, 3, 1)
WIRES = {
    "vanilla": CUT,
    "vanilla, several tensors": TREE_CUT,
    "vanilla, frozen bottom": replace(CUT, cut_gradient=False),
    "u-shaped": U_CUT,
    "u-shaped, several tensors": U_TREE_CUT,
    "u-shaped, frozen bottom": replace(U_CUT, cut_gradient=False),
    "u-shaped, only the top trains": replace(U_CUT, cut_gradient=False, output_gradient=False),
}


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_the_predicted_length_of_a_stream_is_its_length(serve_grpc: Serve, wire: Wire) -> None:
    """Break it: forget the frames that end a stream, or count a gradient that never returns."""
    tree = wire.smashed == TREE_CUT.smashed
    part = trunk_of(tree=tree) if wire.output else server_part_of(tree=tree)
    settings = RuleSettings(settings_of().training, cut_gradient=wire.cut_gradient)
    server = SplitServer(rule=PerParticipantCopies(part, settings), wire=wire)
    bottom = bottom_of(tree=tree).requires_grad_(wire.cut_gradient)
    with CountingProxy(serve_grpc(server)) as counting:
        token = server.open_round(Purpose.TRAIN, [0])[0]
        address = counting.address
        if wire.output:
            top = top_of(tree=tree)
            TopClient(address, token, bottom=bottom, top=top, cut=wire).train(batches_of(0, *SIZES))
        else:
            client = Client(address, token, bottom=bottom, cut=wire)
            with client.session:
                for images, labels in batches_of(0, *SIZES):
                    client.session.train_step(bottom(images), labels)
                client.session.finish()
        report = server.report()
    assert report.failures == {}
    traffic, messages = stream_traffic(wire, SIZES)
    assert traffic == Traffic(counting.uplink_bytes, counting.downlink_bytes)
    assert messages == counting.messages
    assert report.traffic == traffic
    (stream,) = report.streams.values()
    assert (stream.uplink_messages, stream.downlink_messages) == (messages, messages)


def test_a_stream_is_as_long_as_its_steps_and_its_end() -> None:
    steps = [step_traffic(U_CUT, size) for size in SIZES]
    empty = stream_traffic(U_CUT, [])
    whole = stream_traffic(U_CUT, SIZES)
    assert [step.messages for step in steps] == [2] * 4
    assert empty.messages == 1
    assert whole.messages == 9
    assert whole.traffic == sum((step.traffic for step in steps), empty.traffic)
    assert step_traffic(CUT, 8).messages == 1
