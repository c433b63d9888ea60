from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import pytest
import torch
from torch import Tensor, nn

from fedsplit.boundary import TensorSpec
from fedsplit.channel.direct import DirectChannel
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.errors import ChannelError
from fedsplit.split.client import SplitSession
from fedsplit.split.phases import Purpose
from fedsplit.split.steps import StepResult, score
from fedsplit.split.wire import LABELS, LOSS, NUM_CORRECT
from tests.split.toys import (
    CUT,
    NUM_LABELS,
    TREE_CUT,
    Client,
    Serve,
    Weights,
    assert_close,
    assert_same_bits,
    batches_of,
    bottom_of,
    config_of,
    make_server,
    server_part_of,
    stream_to,
    train_jointly,
    weights_of,
    wire_of,
)

SIZES = (8,) * 17 + (1, 5, 8)


class Run(NamedTuple):
    losses: list[float]
    bottom: Weights
    server_part: Weights


def run_split(
    address_of: Serve, *, tree: bool, optimizer: str, sizes: tuple[int, ...] = SIZES
) -> Run:
    """Train over a channel: losses, the bottom's and the server part's weights."""
    config = config_of(optimizer=optimizer, momentum=0.9, learning_rate=0.02)
    server = make_server(tree=tree, config=config)
    address = address_of(server)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    cut = TREE_CUT if tree else CUT
    client = Client(address, token, bottom=bottom_of(tree=tree), config=config, cut=cut)
    bottom = client.train(batches_of(0, *sizes))
    server.close_round(server.report().num_examples)
    return Run(client.losses, bottom, weights_of(server.server_part))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("tree", [False, True], ids=["tensor", "tree"])
def test_split_equals_whole(
    serve_direct: Serve, serve_grpc: Serve, tree: bool, optimizer: str
) -> None:
    config = config_of(optimizer=optimizer, momentum=0.9, learning_rate=0.02)
    bottom, server_part = bottom_of(tree=tree), server_part_of(tree=tree)
    losses = train_jointly(bottom, server_part, batches_of(0, *SIZES), config)
    direct = run_split(serve_direct, tree=tree, optimizer=optimizer)
    grpc = run_split(serve_grpc, tree=tree, optimizer=optimizer)
    assert len(losses) == 20
    assert direct.losses == grpc.losses
    assert direct.losses == pytest.approx(losses, abs=1e-6)
    assert_same_bits(direct.bottom, grpc.bottom)
    assert_same_bits(direct.server_part, grpc.server_part)
    assert_close(direct.bottom, weights_of(bottom), atol=1e-6)
    assert_close(direct.server_part, weights_of(server_part), atol=1e-6)
    assert_moved(direct.bottom, weights_of(bottom_of(tree=tree)))


def assert_moved(after: Weights, before: Weights) -> None:
    assert all(float((after[name] - before[name]).abs().max()) > 1e-3 for name in after)


@pytest.mark.parametrize("tree", [False, True], ids=["tensor", "tree"])
def test_one_step_gives_the_joined_models_gradients(serve: Serve, tree: bool) -> None:
    bottom, whole = (
        bottom_of(tree=tree),
        nn.Sequential(bottom_of(tree=tree), server_part_of(tree=tree)),
    )
    server = make_server(tree=tree)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    images, labels = batches_of(0, 8)[0]
    images.requires_grad_()
    cut = TREE_CUT if tree else CUT
    with SplitSession(stream_to(serve(server), token, cut=cut), cut) as session:
        result = session.train_step(bottom(images), labels)
        torch.autograd.backward(result.loss)
    seen = images.grad
    again = images.detach().clone().requires_grad_()
    expected = score(whole(again), labels)
    torch.autograd.backward(expected.loss)
    assert seen is not None
    assert again.grad is not None
    assert result.loss.item() == pytest.approx(expected.loss.item(), abs=1e-7)
    assert torch.equal(result.num_correct, expected.num_correct)
    torch.testing.assert_close(seen, again.grad, atol=1e-7, rtol=0)
    for one, other in zip(bottom.parameters(), whole[0].parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.abs().sum() > 0
        torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=0)


def test_the_loss_can_be_scaled_like_any_other(serve_direct: Serve) -> None:
    server = make_server()
    token = server.open_round(Purpose.TRAIN, [0])[0]
    images, labels = batches_of(0, 8)[0]
    bottom = bottom_of()
    with SplitSession(stream_to(serve_direct(server), token), CUT) as session:
        loss, _ = session.train_step(bottom(images), labels)
        (once,) = torch.autograd.grad(loss, [bottom.get_parameter("weight")], retain_graph=True)
        (thrice,) = torch.autograd.grad(3 * loss, [bottom.get_parameter("weight")])
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_train(serve: Serve, dtype: torch.dtype) -> None:
    cut = wire_of({"hidden": TensorSpec((1, 4), dtype)}, NUM_LABELS, 8)
    server = make_server(server_part=server_part_of().to(dtype))
    server.wire = cut
    token = server.open_round(Purpose.TRAIN, [0])[0]
    bottom = bottom_of().to(dtype)
    images, labels = batches_of(0, 8)[0]
    with SplitSession(stream_to(serve(server), token, cut=cut), cut) as session:
        loss, _ = session.train_step(bottom(images.to(dtype)), labels)
        torch.autograd.backward(loss)
        session.finish()
    assert loss.dtype is torch.float32
    weight = bottom.get_parameter("weight")
    assert weight.grad is not None
    assert weight.grad.dtype is dtype
    assert server.report().num_examples == {0: 8}


def test_batches_of_one_example_train(serve: Serve) -> None:
    """The answer to one example is longer than the question, and must pass the limit."""
    server = make_server()
    server.wire = wire_of(CUT.smashed.tensors, NUM_LABELS, 1)
    token = server.open_round(Purpose.TRAIN, [0])[0]
    Client(serve(server), token, cut=server.wire).train(batches_of(0, 1, 1, 1))
    assert server.report().num_examples == {0: 3}


def test_views_and_shared_memory_at_the_cut(serve: Serve) -> None:
    class Bottom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.linear(x)
            return {"hidden": hidden, "tap": hidden, "turned": hidden.t().contiguous().t()}

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, NUM_LABELS)

        def forward(self, state: dict[str, Tensor]) -> Tensor:
            logits: Tensor = self.linear(torch.cat(list(state.values()), dim=1))
            return logits

    float4 = TensorSpec((1, 4), torch.float32)
    cut = wire_of({"hidden": float4, "tap": float4, "turned": float4}, NUM_LABELS, 8)
    server = make_server(server_part=Part())
    server.wire = cut
    whole = nn.Sequential(Bottom(), Part())
    whole[1].load_state_dict(server.server_part.state_dict())
    bottom = Bottom()
    bottom.load_state_dict(whole[0].state_dict())
    token = server.open_round(Purpose.TRAIN, [0])[0]
    client = Client(serve(server), token, bottom=bottom, cut=cut)
    client.train(batches_of(0, 8, 8))
    server.close_round(server.report().num_examples)
    train_jointly(whole[0], whole[1], batches_of(0, 8, 8), config_of())
    assert_close(weights_of(bottom), weights_of(whole[0]))
    assert_close(weights_of(server.server_part), weights_of(whole[1]))


def test_evaluation_scores_like_the_joined_model_and_trains_nothing(serve: Serve) -> None:
    server = make_server()
    before = weights_of(server.server_part)
    bottom = bottom_of()
    whole = nn.Sequential(bottom, server_part_of())
    token = server.open_round(Purpose.EVALUATE, [0])[0]
    with SplitSession(stream_to(serve(server), token), CUT) as session:
        for images, labels in batches_of(0, 8, 8, 3):
            result = session.evaluate_step(bottom(images), labels)
            expected = score(whole(images), labels)
            assert result.loss.item() == expected.loss.item()
            assert result.num_correct.item() == expected.num_correct.item()
            assert not result.loss.requires_grad
        session.finish()
    report = server.report()
    server.close_round(report.num_examples)
    assert report.num_examples == {0: 19}
    assert_same_bits(weights_of(server.server_part), before)


def test_evaluation_is_in_eval_mode(serve_direct: Serve) -> None:
    part = nn.Sequential(nn.Dropout(0.9), server_part_of())
    server = make_server(server_part=part)
    token = server.open_round(Purpose.EVALUATE, [0])[0]
    images, labels = batches_of(0, 8)[0]
    with SplitSession(stream_to(serve_direct(server), token), CUT) as session:
        hidden = bottom_of()(images)
        loss = session.evaluate_step(hidden, labels).loss.item()
    assert loss == score(server_part_of()(hidden), labels).loss.item()


def test_a_frozen_bottom_trains_the_server_part(serve: Serve) -> None:
    server = make_server()
    token = server.open_round(Purpose.TRAIN, [0])[0]
    bottom = bottom_of().requires_grad_(False)
    with SplitSession(stream_to(serve(server), token), CUT) as session:
        for images, labels in batches_of(0, 8, 8):
            loss, _ = session.train_step(bottom(images), labels)
            assert not loss.requires_grad
        session.finish()
    server.close_round(server.report().num_examples)
    expected = server_part_of()
    train_jointly(bottom_of().requires_grad_(False), expected, batches_of(0, 8, 8), config_of())
    assert_close(weights_of(server.server_part), weights_of(expected))


def _train(session: SplitSession) -> StepResult:
    return session.train_step(torch.ones(2, 4, requires_grad=True), torch.tensor([0, 1]))


def _evaluate(session: SplitSession) -> StepResult:
    return session.evaluate_step(torch.ones(2, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("purpose", "step", "words"),
    [
        (Purpose.EVALUATE, _train, "EVALUATION holding .*, not CUT_GRADIENT"),
        (Purpose.TRAIN, _evaluate, "CUT_GRADIENT holding .*, not EVALUATION"),
    ],
)
def test_a_token_is_good_for_its_purpose_only(
    serve: Serve, purpose: Purpose, step: Callable[[SplitSession], StepResult], words: str
) -> None:
    server = make_server()
    before = weights_of(server.server_part)
    token = server.open_round(purpose, [0])[0]
    with (
        SplitSession(stream_to(serve(server), token), CUT) as session,
        pytest.raises(ChannelError, match=words),
    ):
        step(session)
    report = server.report()
    assert report.num_examples == {}
    server.close_round(report.num_examples)
    assert_same_bits(weights_of(server.server_part), before)


class FakeStream:
    """Answers what the test wants."""

    def __init__(self, answer: Callable[[Frame], Frame]) -> None:
        self.answer = answer
        self.asked: list[Frame] = []
        self.left = False

    def exchange(self, frame: Frame) -> Frame:
        self.asked.append(frame)
        return self.answer(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.left = True


GOOD: dict[str, Tensor] = {
    "cut.hidden": torch.zeros(2, 4),
    LOSS: torch.tensor(1.0),
    NUM_CORRECT: torch.tensor(1),
}


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in GOOD.items() if key != name}


ANSWERS: dict[str, tuple[Kind, int, Mapping[str, Tensor], str]] = {
    "kind": (Kind.EVALUATION, 0, GOOD, "EVALUATION holding"),
    "finished": (Kind.FINISHED, 0, {}, "FINISHED holding"),
    "echo": (Kind.SMASHED_DATA, 0, GOOD, "SMASHED_DATA holding"),
    "step behind": (Kind.CUT_GRADIENT, 2**32 - 1, GOOD, "step 4294967295 where step 0 was due"),
    "step ahead": (Kind.CUT_GRADIENT, 1, GOOD, "step 1 where step 0 was due"),
    "no gradient": (Kind.CUT_GRADIENT, 0, without("cut.hidden"), "not CUT_GRADIENT holding"),
    "no loss": (Kind.CUT_GRADIENT, 0, without(LOSS), "not CUT_GRADIENT holding"),
    "no hits": (Kind.CUT_GRADIENT, 0, without(NUM_CORRECT), "not CUT_GRADIENT holding"),
    "extra": (Kind.CUT_GRADIENT, 0, {**GOOD, "cut.more": torch.ones(1)}, "'cut.more'"),
    "shape": (
        Kind.CUT_GRADIENT,
        0,
        {**GOOD, "cut.hidden": torch.zeros(4, 2)},
        r"'cut.hidden' as torch.float32 \[4, 2\], not torch.float32 \[2, 4\]",
    ),
    "dtype": (Kind.CUT_GRADIENT, 0, {**GOOD, "cut.hidden": torch.zeros(2, 4).half()}, "float16"),
    "NaN": (
        Kind.CUT_GRADIENT,
        0,
        {**GOOD, "cut.hidden": torch.full((2, 4), float("nan"))},
        "NaN or infinity in 'cut.hidden'",
    ),
    "infinite loss": (
        Kind.CUT_GRADIENT,
        0,
        {**GOOD, LOSS: torch.tensor(float("inf"))},
        "NaN or infinity in 'loss'",
    ),
    "loss shape": (Kind.CUT_GRADIENT, 0, {**GOOD, LOSS: torch.ones(1)}, "'loss' as"),
    "loss dtype": (Kind.CUT_GRADIENT, 0, {**GOOD, LOSS: torch.tensor(1)}, "'loss' as torch.int64"),
    "float hits": (
        Kind.CUT_GRADIENT,
        0,
        {**GOOD, NUM_CORRECT: torch.tensor(1.0)},
        "'num-correct' as torch.float32",
    ),
}


@pytest.mark.parametrize(("kind", "step", "tensors", "words"), ANSWERS.values(), ids=ANSWERS)
def test_wrong_answers_are_refused(
    kind: Kind, step: int, tensors: Mapping[str, Tensor], words: str
) -> None:
    stream = FakeStream(lambda frame: Frame(kind, step, tensors))
    smashed = torch.ones(2, 4, requires_grad=True)
    with SplitSession(stream, CUT) as session, pytest.raises(ChannelError, match=words):
        session.train_step(smashed, torch.tensor([0, 1]))
    assert smashed.grad is None
    assert stream.left


def test_wrong_answers_to_an_evaluation_are_refused() -> None:
    scores = without("cut.hidden")
    bad = (
        (Kind.EVALUATION, GOOD),
        (Kind.CUT_GRADIENT, scores),
        (Kind.EVALUATION, {**scores, LOSS: torch.tensor(float("nan"))}),
        (Kind.EVALUATION, {LOSS: torch.tensor(1.0)}),
    )
    for kind, tensors in bad:
        stream = FakeStream(lambda f, k=kind, t=tensors: Frame(k, f.step, t))  # type: ignore[misc]
        session = SplitSession(stream, CUT)
        with pytest.raises(ChannelError):
            _evaluate(session)


def test_a_finish_that_is_not_confirmed_is_an_error() -> None:
    session = SplitSession(FakeStream(lambda frame: Frame(Kind.EVALUATION, frame.step)), CUT)
    with pytest.raises(ChannelError, match="answered FINISH with EVALUATION"):
        session.finish()
    session = SplitSession(FakeStream(lambda frame: Frame(Kind.FINISHED, frame.step + 1)), CUT)
    with pytest.raises(ChannelError, match="step 1 where step 0 was due"):
        session.finish()


def test_sent_frames_are_detached_contiguous_and_numbered() -> None:
    stream = FakeStream(lambda frame: Frame(Kind.CUT_GRADIENT, frame.step, GOOD))
    session = SplitSession(stream, CUT)
    smashed = torch.ones(4, 2, requires_grad=True).t()
    for _ in range(3):
        session.train_step(smashed, torch.tensor([0, 1]))
    assert [frame.step for frame in stream.asked] == [0, 1, 2]
    assert [frame.kind for frame in stream.asked] == [Kind.SMASHED_DATA] * 3
    for frame in stream.asked:
        assert set(frame.tensors) == {"cut.hidden", LABELS}
        assert frame.tensors["cut.hidden"].is_contiguous()
        assert not frame.tensors["cut.hidden"].requires_grad


@pytest.mark.parametrize("tree", [False, True], ids=["tensor", "tree"])
def test_both_channels_carry_the_same_bytes(
    serve_direct: Serve, serve_grpc: Serve, tree: bool
) -> None:
    traffic = []
    for serve in (serve_direct, serve_grpc):
        server = make_server(tree=tree)
        address = serve(server)
        token = server.open_round(Purpose.TRAIN, [0])[0]
        cut = TREE_CUT if tree else CUT
        Client(address, token, bottom=bottom_of(tree=tree), cut=cut).train(batches_of(0, 8, 3, 1))
        traffic.append(server.report().traffic)
    assert traffic[0] == traffic[1]


def test_no_watchdog_outlives_its_session() -> None:
    def watchdogs() -> int:
        return sum(thread.name == "fedsplit-watchdog" for thread in threading.enumerate())

    server = make_server()
    channels = DirectChannel(server), GrpcChannel(server, address="127.0.0.1:0", max_streams=2)
    for channel in channels:
        token = server.open_round(Purpose.TRAIN, [0])[0]
        Client(channel.address, token).train(batches_of(0, 8))
        server.report()
        channel.close()
    server.close()
    for thread in threading.enumerate():
        if thread.name == "fedsplit-watchdog":
            thread.join(5)
    assert watchdogs() == 0
