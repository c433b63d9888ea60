"""The client's side of the U-shaped topology: the server's trunk as a function of autograd."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.client import SplitSession
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.phases import Purpose
from fedsplit.split.steps import score
from tests.split.test_client import FakeStream
from tests.split.toys import (
    Serve,
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    stream_to,
    train_jointly,
    weights_of,
)
from tests.split.ushaped import U_CUT, UClient, top_of, trunk_of, u_serving


def test_one_step_gives_the_joined_models_gradients(serve: Serve) -> None:
    """Break it: stop the backward pass at the cut; the bottom's gradient is None."""
    server = u_serving(PerParticipantCopies)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    client = UClient(serve(server), token)
    images, labels = batches_of(0, 8)[0]
    with client.session:
        torch.autograd.backward(client.forward((images, labels)))
    whole = nn.Sequential(bottom_of(), trunk_of(), top_of())
    torch.autograd.backward(score(whole(images), labels).loss)
    for ours, theirs in ((client.bottom, whole[0]), (client.top, whole[2])):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert other.grad.abs().sum() > 0
            torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=0)


@pytest.mark.parametrize("tree", [False, True], ids=["tensor", "tree"])
def test_a_frozen_bottom_trains_trunk_and_top(serve: Serve, tree: bool) -> None:
    """Break it: pass autograd the smashed data as it is; without a graph it never goes back."""
    server = u_serving(PerParticipantCopies, tree=tree)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    client = UClient(serve(server), token, tree=tree)
    client.bottom.requires_grad_(False)
    client.train(batches_of(0, 8, 8, 3))
    server.close_round(server.report().num_examples)
    bottom, trunk, top = bottom_of(tree=tree), trunk_of(tree=tree), top_of(tree=tree)
    bottom.requires_grad_(False)
    train_jointly(bottom, nn.Sequential(trunk, top), batches_of(0, 8, 8, 3), config_of())
    assert_close(weights_of(server.server_part), weights_of(trunk))
    assert_close(weights_of(client.top), weights_of(top))
    assert_same_bits(weights_of(client.bottom), weights_of(bottom))


def test_a_top_that_works_in_place_does_not_reach_the_server(serve_direct: Serve) -> None:
    """Break it: return the server's own tensor, since the direct channel copies nothing."""
    server = u_serving(PerParticipantCopies)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    images, labels = batches_of(0, 8)[0]
    bottom, top = bottom_of(), top_of()
    with SplitSession(stream_to(serve_direct(server), token), U_CUT) as session:
        output = session.trunk(bottom(images))
        assert isinstance(output, Tensor)
        loss = score(top(output.mul_(2.0)), labels).loss
        torch.autograd.backward(loss)
        session.finish()
    assert server.report().num_examples == {0: 8}
    own, whole = bottom_of(), trunk_of()
    expected = score(top(whole(own(images)) * 2.0), labels).loss
    torch.autograd.backward(expected)
    assert loss.item() == expected.item()
    for one, other in zip(bottom.parameters(), own.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=0)


def test_an_evaluation_with_a_training_token_trains_nothing(serve: Serve) -> None:
    server = u_serving(PerParticipantCopies)
    before = weights_of(server.server_part)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    with SplitSession(stream_to(serve(server), token), U_CUT) as session:
        session.evaluate_trunk(bottom_of()(batches_of(0, 8)[0][0]))
        with pytest.raises(ChannelError, match="step 1 where step 0 was due"):
            session.evaluate_trunk(bottom_of()(batches_of(0, 8)[0][0]))
    report = server.report()
    server.close_round(report.num_examples)
    assert report.num_examples == {}
    assert_same_bits(weights_of(server.server_part), before)


def test_a_second_batch_before_the_backward_pass_of_the_first_is_refused(serve: Serve) -> None:
    server = u_serving(PerParticipantCopies)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    client = UClient(serve(server), token)
    with client.session:
        client.forward(batches_of(0, 8)[0])
        with pytest.raises(ChannelError, match="SMASHED_DATA frame with 1 tensors"):
            client.forward(batches_of(0, 8)[0])


OUTPUT: dict[str, Tensor] = {"output.hidden": torch.ones(2, 7)}
GRADIENT: dict[str, Tensor] = {"cut.hidden": torch.ones(2, 4)}
BAD_OUTPUTS: dict[str, tuple[Kind, int, Mapping[str, Tensor], str]] = {
    "kind": (Kind.CUT_GRADIENT, 0, OUTPUT, "CUT_GRADIENT holding"),
    "empty": (Kind.TRUNK_OUTPUT, 0, {}, "TRUNK_OUTPUT holding"),
    "step": (Kind.TRUNK_OUTPUT, 1, OUTPUT, "step 1 where step 0 was due"),
    "NaN": (Kind.TRUNK_OUTPUT, 0, {"output.hidden": torch.full((2, 7), torch.nan)}, "NaN"),
}
BAD_GRADIENTS: dict[str, tuple[Kind, int, Mapping[str, Tensor], str]] = {
    "kind": (Kind.TRUNK_OUTPUT, 0, GRADIENT, "TRUNK_OUTPUT holding"),
    "step": (Kind.CUT_GRADIENT, 1, GRADIENT, "step 1 where step 0 was due"),
    "missing": (Kind.CUT_GRADIENT, 0, {}, "not CUT_GRADIENT holding"),
    "more": (Kind.CUT_GRADIENT, 0, {**GRADIENT, "loss": torch.tensor(1.0)}, "'loss'"),
    "shape": (Kind.CUT_GRADIENT, 0, {"cut.hidden": torch.ones(4, 2)}, r"\[4, 2\], not"),
    "dtype": (Kind.CUT_GRADIENT, 0, {"cut.hidden": torch.ones(2, 4).half()}, "float16"),
    "infinity": (Kind.CUT_GRADIENT, 0, {"cut.hidden": torch.full((2, 4), torch.inf)}, "infinity"),
}


@pytest.mark.parametrize(
    ("kind", "step", "tensors", "words"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS
)
def test_wrong_outputs_are_refused(
    kind: Kind, step: int, tensors: Mapping[str, Tensor], words: str
) -> None:
    for call in ("trunk", "evaluate_trunk"):
        session = SplitSession(FakeStream(lambda frame: Frame(kind, step, tensors)), U_CUT)
        with pytest.raises(ChannelError, match=words):
            getattr(session, call)(torch.ones(2, 4, requires_grad=True))


@pytest.mark.parametrize(
    ("kind", "step", "tensors", "words"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS
)
def test_wrong_cut_gradients_are_refused(
    kind: Kind, step: int, tensors: Mapping[str, Tensor], words: str
) -> None:
    def answer(frame: Frame) -> Frame:
        if frame.kind is Kind.SMASHED_DATA:
            return Frame(Kind.TRUNK_OUTPUT, frame.step, OUTPUT)
        return Frame(kind, step, tensors)

    smashed = torch.ones(2, 4, requires_grad=True)
    session = SplitSession(FakeStream(answer), U_CUT)
    output = session.trunk(smashed)
    assert isinstance(output, Tensor)
    with pytest.raises(ChannelError, match=words):
        torch.autograd.backward(output.sum())
    assert smashed.grad is None


def test_frames_are_numbered_by_batch_and_hold_one_tensor() -> None:
    def answer(frame: Frame) -> Frame:
        is_batch = frame.kind is Kind.SMASHED_DATA
        kind, tensors = (Kind.TRUNK_OUTPUT, OUTPUT) if is_batch else (Kind.CUT_GRADIENT, GRADIENT)
        return Frame(kind, frame.step, tensors)

    stream = FakeStream(answer)
    session = SplitSession(stream, U_CUT)
    for _ in range(2):
        output = session.trunk(torch.ones(4, 2, requires_grad=True).t())
        assert isinstance(output, Tensor)
        torch.autograd.backward(output.sum())
    assert [(frame.kind, frame.step) for frame in stream.asked] == [
        (kind, step) for step in (0, 1) for kind in (Kind.SMASHED_DATA, Kind.OUTPUT_GRADIENT)
    ]
    for frame in stream.asked:
        assert len(frame.tensors) == 1
        assert all(t.is_contiguous() and not t.requires_grad for t in frame.tensors.values())
