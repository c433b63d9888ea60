"""The classifier over the real channel: what crosses it, what returns, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.channel.direct import DirectChannel
from fedsplit.channel.frame import Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.errors import ChannelError
from fedsplit.models import InputSpec, SplitModel, split_model
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.phases import Purpose
from fedsplit.split.server import SplitServer
from fedsplit.split.wire import Wire
from fedsplit.wiring import boundaries_of
from tests.models.families.qwen3_vl_toys import NUM_LABELS, classifier_of, images_of
from tests.split.toys import (
    Client,
    assert_close,
    config_of,
    optimizer_of,
    settings_of,
    smashed_frame,
    stream_to,
    weights_of,
)

SPEC = InputSpec(3, 8, 16, (0.5,) * 3, (0.5,) * 3)
CONFIG = config_of(**{"learning-rate": 0.02})
BATCHES = [images_of(step, size) for step, size in enumerate([3, 3, 1])]


@pytest.fixture(params=["direct", "grpc"])
def serve(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return what serves a split server on a channel, and gives its address."""
    channels: list[DirectChannel | GrpcChannel] = []

    def start(server: SplitServer) -> str:
        if request.param == "direct":
            channels.append(DirectChannel(server))
        else:
            channels.append(GrpcChannel(server, address="127.0.0.1:0", max_streams=4))
        return channels[-1].address

    yield start
    for channel in channels:
        channel.close()


def cut_of(parts: SplitModel, *, u_shaped: bool = False) -> Wire:
    smashed, output = boundaries_of(parts, SPEC, u_shaped=u_shaped)
    return Wire(smashed, NUM_LABELS, 8, output=output)


def trained_plainly(*parts: nn.Module) -> list[dict[str, Tensor]]:
    """Train parts as one model, each with an optimizer of its own; return their weights."""
    own = [copy.deepcopy(part) for part in parts]
    optimizers = [optimizer_of(part.parameters(), CONFIG) for part in own]
    for images, labels in BATCHES:
        state: Any = images
        for part, optimizer in zip(own, optimizers, strict=True):
            optimizer.zero_grad()
            state = part(state)
        torch.autograd.backward(cross_entropy(state, labels))
        for optimizer in optimizers:
            optimizer.step()
    return [weights_of(part) for part in own]


@pytest.mark.parametrize("cut_layer", [1, 3, 5])
def test_a_round_is_plain_training(serve: Any, cut_layer: int) -> None:  # noqa: ANN401
    parts = split_model(classifier_of().train(), [cut_layer])
    expected = trained_plainly(parts.bottom, parts.server_part())
    cut, bottom = cut_of(parts), copy.deepcopy(parts.bottom)
    assert list(cut.smashed.tensors) == ["hidden", "grid_thw"]
    rule = PerParticipantCopies(copy.deepcopy(parts.server_part()), settings_of(CONFIG))
    server = SplitServer(rule=rule, wire=cut)
    address = serve(server)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    trained = Client(address, token, bottom=bottom, config=CONFIG, cut=cut).train(BATCHES)
    report = server.report()
    assert report.failures == {}
    assert report.num_examples == {0: 7}
    server.close_round(report.num_examples)
    assert_close(trained, expected[0], atol=1e-5)
    assert_close(weights_of(rule.server_part), expected[1], atol=1e-5)
    assert any(not torch.equal(trained[n], t) for n, t in parts.bottom.state_dict().items())
    rule.close()


def test_labels_may_stay_with_the_client(serve: Any) -> None:  # noqa: ANN401
    parts = split_model(classifier_of().train(), [1, 3])
    expected = trained_plainly(*parts)
    cut = cut_of(parts, u_shaped=True)
    rule = PerParticipantCopies(copy.deepcopy(parts.trunk), settings_of(CONFIG))
    server = SplitServer(rule=rule, wire=cut)
    token = server.open_round(Purpose.TRAIN, [0])
    bottom, top = copy.deepcopy(parts.bottom), copy.deepcopy(parts.top)
    client = Client(serve(server), token[0], bottom=bottom, config=CONFIG, cut=cut)
    own = [client.optimizer, optimizer_of(top.parameters(), CONFIG)]
    with client.session as session:
        for images, labels in BATCHES:
            for optimizer in own:
                optimizer.zero_grad()
            loss = cross_entropy(top(session.trunk(bottom(images))), labels)
            torch.autograd.backward(loss)
            for optimizer in own:
                optimizer.step()
        session.finish()
    server.close_round(server.report().num_examples)
    for found, weights in zip((bottom, rule.server_part, top), expected, strict=True):
        assert_close(weights_of(found), weights, atol=1e-5)
    rule.close()


def test_the_grid_stays_on_the_cpu_wherever_the_server_computes() -> None:
    """Break it: move every tensor to the server part's device; each step then waits for it."""
    parts = split_model(classifier_of(), [1])
    images, labels = BATCHES[0]
    with torch.no_grad():
        frame = smashed_frame(0, parts.bottom(images), labels)
    smashed: Any = cut_of(parts).unpack(frame, device=torch.device("meta")).state
    assert smashed["hidden"].is_meta
    assert smashed["grid_thw"].tolist() == [[1, 2, 4]] * 3
    assert list(smashed) == ["hidden", "grid_thw"]


@pytest.mark.parametrize("grid", [[1, 4, 2], [1, 1, 8], [1, 2, 4000000], [-1, -2, 4], [2, 2, 2]])
def test_another_size_of_the_image_is_refused(serve: Any, grid: list[int]) -> None:  # noqa: ANN401
    """Break it: check shape and dtype of whole numbers, and not their values."""
    parts = split_model(classifier_of().train(), [1])
    images, labels = BATCHES[0]
    cut = cut_of(parts)
    assert cut.smashed.tensors["grid_thw"].value == (1, 2, 4)
    rule = PerParticipantCopies(parts.server_part(), settings_of(CONFIG))
    server = SplitServer(rule=rule, wire=cut)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    state: Any = parts.bottom(images)
    with torch.no_grad():
        hostile = {"hidden": state["hidden"].detach(), "grid_thw": state["grid_thw"].clone()}
        hostile["grid_thw"][1] = torch.tensor(grid)
    refused = pytest.raises(ChannelError, match=r"values in 'cut\.grid_thw' other.*\[1, 2, 4\]")
    with stream_to(serve(server), token, cut=cut) as stream, refused:
        stream.exchange(smashed_frame(0, hostile, labels))
    rule.close()


def test_the_gradient_returns_for_hidden_alone(serve: Any) -> None:  # noqa: ANN401
    parts = split_model(classifier_of().train(), [2])
    images, labels = BATCHES[0]
    cut = cut_of(parts)
    rule = PerParticipantCopies(copy.deepcopy(parts.server_part()), settings_of(CONFIG))
    server = SplitServer(rule=rule, wire=cut)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    state: Any = parts.bottom(images)
    hidden = state["hidden"].detach().requires_grad_()
    loss = cross_entropy(parts.server_part()({**state, "hidden": hidden}), labels)
    torch.autograd.backward(loss)
    with stream_to(serve(server), token, cut=cut) as stream:
        answer = stream.exchange(smashed_frame(0, {**state, "hidden": hidden.detach()}, labels))
    assert answer.kind is Kind.CUT_GRADIENT
    assert [name for name in answer.tensors if name.startswith("cut.")] == ["cut.hidden"]
    assert hidden.grad is not None
    assert (answer.tensors["cut.hidden"] - hidden.grad).abs().max() <= 1e-6
    rule.close()
