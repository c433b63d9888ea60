"""Frames of a bottom that does not train, and of a trunk that does not either."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.client import SplitSession
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from fedsplit.split.wire import LABELS, LOSS, NUM_CORRECT, OUTPUT_PREFIX, Wire
from tests.split.toys import (
    CUT,
    Straight,
    batches_of,
    bottom_of,
    server_part_of,
    settings_of,
    wire_of,
)
from tests.split.ushaped import U_CUT

RULES = [PerParticipantCopies, InTurn, Concatenated]


def _layers() -> nn.Sequential:
    part = server_part_of()
    assert isinstance(part, nn.Sequential)
    return part


def _opened(kind: type[UpdateRule], cut: Wire) -> tuple[SplitServer, Straight]:
    part = _layers()
    settings = replace(settings_of(), cut_gradient=cut.cut_gradient)
    rule = kind(part if cut.output is None else part[:3], settings)
    server = SplitServer(rule=rule, wire=cut)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    return server, Straight(server.open(token))


@pytest.mark.parametrize("kind", RULES)
def test_a_frozen_bottom_gets_scores_only(kind: type[UpdateRule]) -> None:
    """Break it: leave `cut_gradient` out of a rule's forward pass."""
    server, stream = _opened(kind, replace(CUT, cut_gradient=False))
    other, plain = _opened(kind, CUT)
    bottom = bottom_of().requires_grad_(False)
    for client, made in ((stream, False), (plain, True)):  # the same batches
        session = SplitSession(client, replace(CUT, cut_gradient=made))
        for images, labels in batches_of(0, 8, 3):
            loss, hits = session.train_step(bottom(images), labels)
            assert not loss.requires_grad
            assert hits.dtype == torch.int64
        session.finish()
    for each in (server, other):
        each.close_round(each.report().num_examples)
    answers = [set(f.tensors) for f in stream.frames if f.kind is Kind.CUT_GRADIENT]
    assert answers == [{LOSS, NUM_CORRECT}] * 2
    # The server learns the same whether the cut gradient is returned or not.
    one, two = server.server_part.state_dict(), other.server_part.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["1.weight"], server_part_of().state_dict()["1.weight"])


def test_both_ends_must_agree_on_the_cut_gradient() -> None:
    images, labels = batches_of(0, 4)[0]
    for made in (True, False):
        _, stream = _opened(PerParticipantCopies, replace(CUT, cut_gradient=made))
        session = SplitSession(stream, replace(CUT, cut_gradient=not made))
        with pytest.raises(ChannelError, match=r"answered step 0 with CUT_GRADIENT holding"):
            session.train_step(bottom_of()(images), labels)


@pytest.mark.parametrize("kind", RULES)
def test_u_shaped_the_trunk_trains_without_a_cut_gradient(kind: type[UpdateRule]) -> None:
    server, stream = _opened(kind, replace(U_CUT, cut_gradient=False))
    session, top = SplitSession(stream, server.wire), _layers()[3:]
    images, labels = batches_of(0, 8)[0]
    output = session.trunk(bottom_of().requires_grad_(False)(images))
    assert isinstance(output, torch.Tensor)
    torch.autograd.backward(cross_entropy(top(output), labels))
    session.finish()
    server.close_round(server.report().num_examples)
    kinds = [frame.kind for frame in stream.frames[:4]]
    assert kinds == [
        *(Kind.SMASHED_DATA, Kind.TRUNK_OUTPUT),
        *(Kind.OUTPUT_GRADIENT, Kind.CUT_GRADIENT),
    ]
    assert not stream.frames[3].tensors
    assert top[0].weight.grad is not None
    before = server_part_of().state_dict()["1.weight"]
    assert not torch.equal(server.server_part.state_dict()["1.weight"], before)


@pytest.mark.parametrize("kind", RULES)
def test_u_shaped_nothing_but_the_top_trains(kind: type[UpdateRule]) -> None:
    """Break it: wait in the rule for a gradient that never comes."""
    server, stream = _opened(kind, replace(U_CUT, cut_gradient=False, output_gradient=False))
    session, top = SplitSession(stream, server.wire), _layers()[3:]
    for images, labels in batches_of(0, 8, 3):
        output = session.trunk(bottom_of()(images))
        assert isinstance(output, torch.Tensor)
        torch.autograd.backward(cross_entropy(top(output), labels))
    session.finish()
    assert server.report().num_examples == {0: 11}
    kinds = {frame.kind for frame in stream.frames}
    assert kinds == {Kind.SMASHED_DATA, Kind.TRUNK_OUTPUT, Kind.FINISH, Kind.FINISHED}


def test_an_unexpected_output_gradient_is_refused() -> None:
    _, stream = _opened(PerParticipantCopies, replace(U_CUT, output_gradient=False))
    images, labels = batches_of(0, 8)[0]
    assert len(labels) == 8
    smashed = {"cut.hidden": bottom_of()(images).detach()}
    output = stream.exchange(Frame(Kind.SMASHED_DATA, 0, smashed)).tensors["output.hidden"]
    with pytest.raises(ChannelError, match="OUTPUT_GRADIENT frame with 1 tensors is not legal"):
        stream.exchange(Frame(Kind.OUTPUT_GRADIENT, 1, {f"{OUTPUT_PREFIX}hidden": output}))
    assert LABELS not in smashed


def test_the_longest_frame_without_a_gradient() -> None:
    few = wire_of(CUT.smashed.tensors, CUT.num_labels, 1, cut_gradient=False)
    with_gradient = replace(few, cut_gradient=True)
    assert few.max_frame_bytes < with_gradient.max_frame_bytes
