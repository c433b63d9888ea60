"""Client rules: from a batch of images to a loss, over both channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.boundary import Boundary, State, each
from fedsplit.errors import ChannelError
from fedsplit.fields import Field
from fedsplit.seeding import generator
from fedsplit.split.client import SplitSession
from fedsplit.split.client_rules import (
    ClientRule,
    ClientSide,
    OwnBottom,
    SplitClient,
    WholeModel,
)
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.defences import NO_DEFENCE, Defence
from fedsplit.split.local import BatchLoss, evaluate_batches
from fedsplit.split.phases import Purpose
from fedsplit.split.server import SplitServer
from fedsplit.split.steps import score
from fedsplit.split.totals import LocalResult
from fedsplit.split.training import Training
from fedsplit.split.wire import Wire
from tests.split.toys import (
    CUT,
    NUM_LABELS,
    Batch,
    Serve,
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    make_server,
    server_part_of,
    settings_of,
    stream_to,
    train_jointly,
    weights_of,
)
from tests.split.ushaped import U_CUT, top_of, trunk_of, u_serving

SIZES = (8, 8, 3)
TRAINING = Training.of_clients(config_of())


def draw_of(participant: int = 0, server_round: int = 1) -> Callable[..., torch.Generator]:
    return lambda *names: generator(7, server_round, participant, *names)


def side_of(
    *,
    bottom: nn.Module | None = None,
    top: nn.Module | None = None,
    defence: Defence = NO_DEFENCE,
    added: Mapping[str, nn.Module] | None = None,
) -> ClientSide:
    return ClientSide(
        bottom=bottom_of() if bottom is None else bottom,
        draw=draw_of(),
        training=TRAINING,
        top=top,
        added=added or {},
        defence=defence,
    )


def train(rule: ClientRule, batches: Sequence[Batch]) -> LocalResult:
    modules = [rule.side.bottom, *rule.side.added.values()]
    modules += [] if rule.side.top is None else [rule.side.top]
    weights = [weight for module in modules for weight in module.parameters()]
    result = rule.train(batches, TRAINING.make_optimizer(("", weight) for weight in weights))
    if isinstance(rule, SplitClient):
        rule.session.finish()
    return result


def session_on(
    serve: Serve, server: SplitServer, wire: Wire, purpose: Purpose = Purpose.TRAIN
) -> SplitSession:
    token = server.open_round(purpose, [0])[0]
    return SplitSession(stream_to(serve(server), token, cut=wire), wire, (purpose, 1, 0))


def mean_loss(losses: Sequence[float]) -> float:
    return sum(loss * size for loss, size in zip(losses, SIZES, strict=True)) / sum(SIZES)


def test_the_whole_model_trains_as_a_plain_loop() -> None:
    rule = WholeModel(side_of(bottom=nn.Sequential(bottom_of(), server_part_of())))
    result = train(rule, batches_of(0, *SIZES))
    whole = nn.Sequential(bottom_of(), server_part_of())
    losses = train_jointly(whole[0], whole[1], batches_of(0, *SIZES), config_of())
    assert_same_bits(weights_of(rule.side.bottom), weights_of(whole))
    assert result.num_examples == 19
    assert result.loss == pytest.approx(mean_loss(losses))
    images, labels = batches_of(1, 8)[0]
    assert rule.evaluate_step(images, labels).loss.item() == score(whole(images), labels).loss
    assert not WholeModel.splits
    assert not WholeModel.keeps_weights


@pytest.mark.parametrize("kind", [SplitClient, OwnBottom])
def test_a_split_client_with_labels_at_the_server(serve: Serve, kind: type[SplitClient]) -> None:
    """Break it: return a loss without the cut gradient behind it."""
    server = make_server()
    with session_on(serve, server, CUT) as session:
        rule = kind(side_of(), session)
        result = train(rule, batches_of(0, *SIZES))
    server.close_round(server.report().num_examples)
    bottom, server_part = bottom_of(), server_part_of()
    losses = train_jointly(bottom, server_part, batches_of(0, *SIZES), config_of())
    assert_close(weights_of(rule.side.bottom), weights_of(bottom))
    assert_close(weights_of(server.server_part), weights_of(server_part))
    assert result.loss == pytest.approx(mean_loss(losses), abs=1e-6)


@pytest.mark.parametrize("kind", [SplitClient, OwnBottom])
def test_a_split_client_with_a_top(serve: Serve, kind: type[SplitClient]) -> None:
    """Break it: send the labels, or leave the top out of the loss."""
    server = u_serving(PerParticipantCopies)
    with session_on(serve, server, U_CUT) as session:
        rule = kind(side_of(top=top_of()), session)
        result = train(rule, batches_of(0, *SIZES))
    server.close_round(server.report().num_examples)
    bottom, trunk, top = bottom_of(), trunk_of(), top_of()
    losses = train_jointly(bottom, nn.Sequential(trunk, top), batches_of(0, *SIZES), config_of())
    assert_close(weights_of(rule.side.bottom), weights_of(bottom))
    assert rule.side.top is not None
    assert_close(weights_of(rule.side.top), weights_of(top))
    assert_close(weights_of(server.server_part), weights_of(trunk))
    assert result.loss == pytest.approx(mean_loss(losses), abs=1e-6)


@pytest.mark.parametrize("u_shaped", [False, True], ids=["vanilla", "u-shaped"])
def test_evaluation_scores_the_joined_model(serve: Serve, u_shaped: bool) -> None:
    server = u_serving(PerParticipantCopies) if u_shaped else make_server()
    wire, before = (U_CUT if u_shaped else CUT), weights_of(server.server_part)
    with session_on(serve, server, wire, Purpose.EVALUATE) as session:
        rule = SplitClient(side_of(top=top_of() if u_shaped else None), session)
        result = evaluate_batches(batches_of(0, *SIZES), rule.evaluate_step)
        session.finish()
    whole = nn.Sequential(bottom_of(), server_part_of())
    assert result == evaluate_batches(
        batches_of(0, *SIZES), lambda images, labels: score(whole(images), labels)
    )
    assert_same_bits(weights_of(server.server_part), before)


def test_the_kinds_of_clients() -> None:
    assert (SplitClient.splits, SplitClient.keeps_weights) == (True, False)
    assert (OwnBottom.splits, OwnBottom.keeps_weights) == (True, True)
    for kind in (WholeModel, SplitClient, OwnBottom):
        assert kind.uses_cut_gradient
        assert kind.sends_every_batch
        assert dict(kind.added_modules(CUT.smashed, NUM_LABELS)) == {}
        assert kind.metrics == ()


class Penalised(SplitClient):
    """Descend the server's loss and a penalty of the bottom; count the batches."""

    metrics = (Field("batches", "batches"),)

    def __init__(self, side: ClientSide, session: SplitSession) -> None:
        super().__init__(side, session)
        self.batches = 0

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        plain = super().train_step(images, labels).reported
        penalty = sum((w.square().sum() for w in self.side.bottom.parameters()), torch.zeros(()))
        self.batches += 1
        return BatchLoss(plain.loss + 0.5 * penalty, plain)

    def measured(self) -> Mapping[str, float]:
        return {"batches": float(self.batches)}


def test_a_rule_may_descend_more_than_it_reports(serve: Serve) -> None:
    """Break it: report what is descended."""
    server, config = make_server(), config_of()
    with session_on(serve, server, CUT) as session:
        rule = Penalised(side_of(), session)
        result = train(rule, batches_of(0, *SIZES))
    server.close_round(server.report().num_examples)
    bottom, server_part = bottom_of(), server_part_of()
    own = TRAINING.make_optimizer(bottom.named_parameters())
    theirs = Training.of_server(config).make_optimizer(server_part.named_parameters())
    losses = []
    for images, labels in batches_of(0, *SIZES):
        own.zero_grad()
        theirs.zero_grad()
        loss = cross_entropy(server_part(bottom(images)), labels)
        penalty = sum((w.square().sum() for w in bottom.parameters()), torch.zeros(()))
        torch.autograd.backward(loss + 0.5 * penalty)
        own.step()
        theirs.step()
        losses.append(loss.item())
    assert_close(weights_of(rule.side.bottom), weights_of(bottom))
    assert_close(weights_of(server.server_part), weights_of(server_part))
    assert result.loss == pytest.approx(mean_loss(losses), abs=1e-6)
    assert rule.measured() == {"batches": 3.0}


class LocalLoss(SplitClient):
    """Train the bottom on an auxiliary head of its own; the server trains on what it is sent."""

    uses_cut_gradient = False

    @classmethod
    def added_modules(cls, smashed: Boundary, num_labels: int) -> Mapping[str, nn.Module]:
        (spec,) = smashed.tensors.values()
        return {"head": nn.Linear(spec.shape[-1], num_labels)}

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        smashed = self.smashed(images)
        local = score(self.side.added["head"](smashed), labels)
        return BatchLoss(local.loss, self.session.train_step(smashed, labels))


def test_added_modules_train_with_the_client(serve: Serve) -> None:
    """Break it: let the cut gradient reach a bottom whose rule does not use it."""
    wire = replace(CUT, cut_gradient=LocalLoss.uses_cut_gradient)
    settings = replace(settings_of(), cut_gradient=LocalLoss.uses_cut_gradient)
    server = SplitServer(rule=PerParticipantCopies(server_part_of(), settings), wire=wire)
    head = LocalLoss.added_modules(CUT.smashed, NUM_LABELS)["head"]
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (4, NUM_LABELS)
    start = copy.deepcopy(head)
    with session_on(serve, server, wire) as session:
        rule = LocalLoss(side_of(added={"head": head}), session)
        train(rule, batches_of(0, *SIZES))
    whole = nn.Sequential(bottom_of(), start)
    # The server's loss is reported and not descended, so bottom and head train as if alone.
    train_jointly(whole[0], whole[1], batches_of(0, *SIZES), config_of())
    assert_same_bits(weights_of(rule.side.bottom), weights_of(whole[0]))
    assert_same_bits(weights_of(head), weights_of(whole[1]))


def test_before_step_changes_gradients_of_every_batch() -> None:
    rule, calls = WholeModel(side_of(bottom=nn.Linear(6, 5))), list[int]()
    before = weights_of(rule.side.bottom)

    def forget() -> None:
        calls.append(1)
        for weight in rule.side.bottom.parameters():
            weight.grad = torch.zeros_like(weight)

    optimizer = TRAINING.make_optimizer(rule.side.bottom.named_parameters())
    rule.train(batches_of(0, *SIZES), optimizer, forget)
    assert len(calls) == 3
    assert_same_bits(weights_of(rule.side.bottom), before)


class Recording(Defence):
    """Add noise and keep what is sent."""

    def __init__(self) -> None:
        self.noise: list[Tensor] = []

    def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
        random = draw("noise")

        def noisy(tensor: Tensor) -> Tensor:
            self.noise.append(torch.randn(tensor.shape, generator=random))
            return tensor + self.noise[-1]

        return each(smashed, noisy)


@pytest.mark.parametrize("u_shaped", [False, True], ids=["vanilla", "u-shaped"])
@pytest.mark.parametrize("purpose", [Purpose.TRAIN, Purpose.EVALUATE])
def test_a_defence_is_applied_with_another_value_for_each_batch_repeatably(
    serve: Serve, purpose: Purpose, u_shaped: bool
) -> None:
    """Break it: protect in training only, or leave the batch out of the draw's names."""
    noise, results = [], []
    batch = batches_of(0, 8)[0]
    for _ in range(2):
        server = u_serving(PerParticipantCopies) if u_shaped else make_server()
        wire, defence = (U_CUT if u_shaped else CUT), Recording()
        with session_on(serve, server, wire, purpose) as session:
            rule = SplitClient(
                side_of(top=top_of() if u_shaped else None, defence=defence), session
            )
            if purpose is Purpose.TRAIN:
                results.append(train(rule, [batch, batch]))
            else:
                results.append(evaluate_batches([batch, batch], rule.evaluate_step))
        noise.append(defence.noise)
    assert [len(each) for each in noise] == [2, 2]
    assert all(torch.equal(one, other) for one, other in zip(*noise, strict=True))
    assert not torch.equal(noise[0][0], noise[0][1])
    assert results[0] == results[1]
    if purpose is Purpose.EVALUATE:
        whole = nn.Sequential(bottom_of(), server_part_of())
        images, labels = batch
        hidden = whole[0](images).detach()
        losses = [score(whole[1](hidden + drawn), labels).loss.item() for drawn in noise[0]]
        assert results[0].loss == pytest.approx(sum(losses) / 2, abs=1e-6)


def test_a_defence_that_changes_the_shape_is_refused_by_the_server(serve: Serve) -> None:
    class Cropped(Defence):
        def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
            return each(smashed, lambda tensor: tensor[:, :3])

    server = make_server()
    with (
        session_on(serve, server, CUT) as session,
        pytest.raises(ChannelError, match=r"\[8, 3\], not torch.float32 \[8, 4\]"),
    ):
        SplitClient(side_of(defence=Cropped()), session).train_step(*batches_of(0, 8)[0])


def test_a_bottom_that_gives_other_tensors_is_refused(serve: Serve) -> None:
    class Renamed(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"features": images[:, :4]}

    server = make_server()
    with session_on(serve, server, CUT) as session, pytest.raises(ChannelError) as refusal:
        SplitClient(side_of(bottom=Renamed()), session).evaluate_step(*batches_of(0, 8)[0])
    assert "['cut.features', 'labels'], not ['cut.hidden', 'labels']" in str(refusal.value)


def test_a_rule_keeps_no_state_by_default() -> None:
    rule = WholeModel(side_of())
    assert rule.state_dict() == {}
    rule.load_state_dict({})
    assert dict(rule.measured()) == {}
