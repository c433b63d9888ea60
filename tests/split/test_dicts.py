"""A module's output reaches the next module in its form, a tensor or a dict."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from fedsplit.boundary import Boundary, TensorSpec
from fedsplit.config import Config
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from fedsplit.split.steps import score
from fedsplit.split.wire import Wire
from tests.split.toys import (
    NUM_LABELS,
    Client,
    Serve,
    assert_close,
    batches_of,
    config_of,
    settings_of,
    train_jointly,
    weights_of,
)
from tests.split.ushaped import TopClient, seeded

RULES: list[type[UpdateRule]] = [PerParticipantCopies, InTurn, Concatenated]
FORMS = ["tensor", "lone dict", "mixed dict"]


class Link(nn.Module):
    """A linear layer that requires one form of input and returns a form of its own."""

    def __init__(self, takes: str, width: int, gives: str, out: int) -> None:
        super().__init__()
        self.takes, self.gives = takes, gives
        self.linear = nn.Linear(width, out)
        self.sign = nn.Embedding(2, out)

    def forward(self, state: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        if self.takes == "tensor":
            assert isinstance(state, Tensor)
            hidden, sign = state, (state[:, 0] > 0).long()
        else:
            assert isinstance(state, dict)
            assert list(state) == (["hidden"] if self.takes == "lone dict" else ["sign", "hidden"])
            hidden = state["hidden"]
            sign = state.get("sign", (hidden[:, 0] > 0).long())
        output: Tensor = self.linear(hidden).tanh() + self.sign(sign)
        if self.gives == "tensor":
            return output
        return {"hidden": output} if self.gives == "lone dict" else {"sign": sign, "hidden": output}


def boundary_of(form: str, width: int) -> Boundary:
    hidden = {"hidden": TensorSpec((1, width), torch.float32)}
    if form == "mixed dict":
        return Boundary({"sign": TensorSpec((1,), torch.int64), **hidden})
    return Boundary(hidden, bare=form == "tensor")


def chain_of(cut: str, output: str) -> nn.Sequential:
    links = [Link("tensor", 6, cut, 4), Link(cut, 4, output, 7)]
    return nn.Sequential(*map(seeded, [*links, Link(output, 7, "tensor", NUM_LABELS)]))


def wire_of_chain(cut: str, output: str, *, u_shaped: bool) -> Wire:
    after = boundary_of(output, 7) if u_shaped else None
    return Wire(boundary_of(cut, 4), NUM_LABELS, 8, output=after)


def serving(
    kind: type[UpdateRule], chain: nn.Sequential, wire: Wire, config: Config
) -> SplitServer:
    server_part = chain[1] if wire.output else chain[1:]
    return SplitServer(rule=kind(copy.deepcopy(server_part), settings_of(config)), wire=wire)


def client_of(address: str, token: str, chain: nn.Sequential, wire: Wire, config: Config) -> Client:
    bottom, top = copy.deepcopy(chain[0]), copy.deepcopy(chain[2])
    if wire.output:
        return TopClient(address, token, bottom=bottom, top=top, cut=wire, config=config)
    return Client(address, token, bottom=bottom, cut=wire, config=config)


@pytest.mark.parametrize("u_shaped", [False, True], ids=["vanilla", "u-shaped"])
@pytest.mark.parametrize(
    ("cut", "output"),
    [("lone dict", "tensor"), ("tensor", "lone dict"), ("mixed dict", "mixed dict")],
    ids=lambda form: form.replace(" ", "-"),
)
@pytest.mark.parametrize("kind", RULES)
def test_training_equals_that_of_the_whole(
    serve: Serve, kind: type[UpdateRule], cut: str, output: str, u_shaped: bool
) -> None:
    """Break it: pass a lone "hidden" on as a bare tensor, or a bare tensor as a dict."""
    config, chain = config_of(), chain_of(cut, output)
    wire = wire_of_chain(cut, output, u_shaped=u_shaped)
    server, whole = serving(kind, chain, wire, config), copy.deepcopy(chain)
    token = server.open_round(Purpose.TRAIN, [2])[2]
    client = client_of(serve(server), token, chain, wire, config)
    trained = client.train(batches_of(2, 8, 3, 8))
    server.close_round(server.report().num_examples)
    losses = train_jointly(whole[0], whole[1:], batches_of(2, 8, 3, 8), config)
    assert client.losses == pytest.approx(losses, abs=1e-6)
    assert_close(trained, weights_of(whole[0]))
    expected: Mapping[str, Tensor] = weights_of(whole[1] if u_shaped else whole[1:])
    assert_close(
        dict(zip(expected, weights_of(server.server_part).values(), strict=True)), expected
    )
    if isinstance(client, TopClient):
        assert_close(weights_of(client.top), weights_of(whole[2]))


@pytest.mark.parametrize("u_shaped", [False, True], ids=["vanilla", "u-shaped"])
@pytest.mark.parametrize("cut", FORMS)
@pytest.mark.parametrize("output", FORMS)
def test_evaluation_equals_that_of_the_whole(
    serve: Serve, cut: str, output: str, u_shaped: bool
) -> None:
    chain, wire = chain_of(cut, output), wire_of_chain(cut, output, u_shaped=u_shaped)
    server = serving(InTurn, chain, wire, config_of())
    token = server.open_round(Purpose.EVALUATE, [0])[0]
    client = client_of(serve(server), token, chain, wire, config_of())
    with client.session:
        for images, labels in batches_of(0, 8, 3):
            smashed = client.bottom(images)
            if isinstance(client, TopClient):
                result = score(client.top(client.session.evaluate_trunk(smashed)), labels)
            else:
                result = client.session.evaluate_step(smashed, labels)
            expected = score(chain(images), labels)
            assert result.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
            assert result.num_correct.item() == expected.num_correct.item()
        client.session.finish()
    assert server.report().num_examples == {0: 11}
