"""The exchange of frames in the U-shaped topology: their order and their content."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.lockstep import keep
from fedsplit.split.phases import Purpose, TrainingPhase
from fedsplit.split.rules import UpdateRule
from fedsplit.split.session import ServerSession
from fedsplit.split.steps import score
from fedsplit.split.wire import LABELS
from tests.channel.hosts import CountingProxy
from tests.split.reference import Data, at_once, data_of, examples_in
from tests.split.toys import (
    Client,
    Serve,
    Weights,
    assert_close,
    assert_same_bits,
    average_by_hand,
    batches_of,
    bottom_of,
    make_server,
    pack_cut,
    settings_of,
    stream_to,
    train_jointly,
    weights_of,
)
from tests.split.toys import config_of as configured
from tests.split.ushaped import (
    U_CUT,
    U_TREE_CUT,
    UClient,
    top_of,
    trunk_of,
    u_serving,
    whole_server_part,
)

DATA = data_of(k0=(8, 8, 3), k1=(8,), k4=(5, 8))
RULES: list[type[UpdateRule]] = [PerParticipantCopies, InTurn, Concatenated]


def smashed(step: int, size: int = 4) -> Frame:
    with torch.no_grad():
        hidden = bottom_of()(batches_of(0, size)[0][0])
    return Frame(Kind.SMASHED_DATA, step, pack_cut(hidden))


def gradient(step: int, tensor: Tensor | None = None, **more: Tensor) -> Frame:
    given = torch.ones(4, 7) if tensor is None else tensor
    return Frame(Kind.OUTPUT_GRADIENT, step, {"output.hidden": given, **more})


@pytest.mark.parametrize("tree", [False, True], ids=["tensor", "tree"])
@pytest.mark.parametrize("kind", RULES)
def test_one_client_is_plain_training_of_the_three_parts(
    serve: Serve, kind: type[UpdateRule], tree: bool
) -> None:
    """Break it: pass tensors to the top in the order of names, or drop a tensor's gradient."""
    server = u_serving(kind, tree=tree)
    token = server.open_round(Purpose.TRAIN, [4])[4]
    client = UClient(serve(server), token, tree=tree)
    client.train(batches_of(4, 8, 8, 3, 1))
    server.close_round(server.report().num_examples)
    bottom, trunk, top = bottom_of(tree=tree), trunk_of(tree=tree), top_of(tree=tree)
    losses = train_jointly(
        bottom, nn.Sequential(trunk, top), batches_of(4, 8, 8, 3, 1), configured()
    )
    assert client.losses == pytest.approx(losses, abs=1e-6)
    for one, other in ((client.bottom, bottom), (client.top, top), (server.server_part, trunk)):
        assert_close(weights_of(one), weights_of(other))


def _averaged(trained: dict[int, Weights], data: Data) -> Weights:
    return average_by_hand([trained[k] for k in data], [examples_in(data[k]) for k in data])


def test_sflv1_gives_the_weights_of_the_vanilla_topology(serve: Serve) -> None:
    """Break it: scale the gradient of the trunk's output, or drop the averages of the tops."""
    u_server, vanilla = u_serving(PerParticipantCopies), make_server()
    u_address, address = serve(u_server), serve(vanilla)
    bottom, top, plain = weights_of(bottom_of()), weights_of(top_of()), weights_of(bottom_of())
    for participants in ([0, 1, 4], [1, 4]):
        data = {k: DATA[k] for k in participants}
        tokens = u_server.open_round(Purpose.TRAIN, participants)
        clients = {k: UClient(u_address, tokens[k], bottom=bottom, top=top) for k in data}
        bottoms = at_once(lambda k, c=clients: c[k].train(DATA[k]), data)  # type: ignore[misc]
        u_server.close_round(u_server.report().num_examples)
        bottom = _averaged(bottoms, data)
        top = _averaged({k: weights_of(clients[k].top) for k in data}, data)

        tokens = vanilla.open_round(Purpose.TRAIN, participants)
        trained = {}
        for k, batches in data.items():
            own = bottom_of()
            own.load_state_dict(plain)
            trained[k] = Client(address, tokens[k], bottom=own).train(batches)
        vanilla.close_round(vanilla.report().num_examples)
        plain = _averaged(trained, data)
    assert_close(bottom, plain)
    assert_close(whole_server_part(u_server.server_part, top), weights_of(vanilla.server_part))


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """Every frame that reaches the server or leaves it."""
    seen: list[Frame] = []
    handle = ServerSession.handle

    def noted(session: ServerSession, frame: Frame) -> Frame:
        seen.append(frame)
        answer = handle(session, frame)
        seen.append(answer)
        return answer

    monkeypatch.setattr(ServerSession, "handle", noted)
    return seen


def _columns(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.ndim:
        yield from tensor.reshape(len(tensor), -1).t()


@pytest.mark.parametrize("kind", RULES)
def test_no_label_is_in_any_frame(
    serve: Serve, frames: list[Frame], kind: type[UpdateRule]
) -> None:
    """Break it: send the labels along in `SplitSession.trunk` under any name and in any dtype."""
    server = u_serving(kind)
    address = serve(server)
    for purpose in (Purpose.TRAIN, Purpose.EVALUATE):
        tokens = server.open_round(purpose, list(DATA))

        def work(k: int, p: Purpose = purpose, tokens: dict[int, str] = tokens) -> None:
            client = UClient(address, tokens[k])
            if p is Purpose.TRAIN:
                client.train(DATA[k])
                return
            with client.session:
                for images, _ in DATA[k]:
                    client.session.evaluate_trunk(client.bottom(images))
                client.session.finish()

        at_once(work, DATA)
        assert server.report().failures == {}
    steps = sum(map(len, DATA.values()))
    assert len(frames) == 2 * (2 * steps + 3) + 2 * (steps + 3)
    known = [labels.double() for batches in DATA.values() for _, labels in batches]
    tensors = [(name, tensor) for frame in frames for name, tensor in frame.tensors.items()]
    assert {name for name, _ in tensors} == {"cut.hidden", "output.hidden"}
    for _, tensor in tensors:
        assert tensor.is_floating_point()
        for column in _columns(tensor.double()):
            assert not any(len(column) == len(y) and torch.equal(column, y) for y in known)


OUT_OF_PLACE = {
    "a gradient before any batch": ([], gradient(0), "OUTPUT_GRADIENT frame with 1 tensors is not"),
    "a batch while a gradient is due": ([smashed(0)], smashed(0), "SMASHED_DATA frame with 1"),
    "the next batch while it is due": ([smashed(0)], smashed(1), "step 1 where step 0 was due"),
    "the end while it is due": ([smashed(0)], Frame(Kind.FINISH, 0), "FINISH frame with 0"),
    "a second gradient": ([smashed(0), gradient(0)], gradient(0), "step 0 where step 1 was due"),
    "a gradient too many": ([smashed(0), gradient(0)], gradient(1), "OUTPUT_GRADIENT frame with"),
    "a gradient ahead": ([smashed(0)], gradient(1), "step 1 where step 0 was due"),
    "another B": ([smashed(0)], gradient(0, torch.ones(3, 7)), r"\[3, 7\], not torch.float32"),
    "no B": ([smashed(0)], gradient(0, torch.ones(0, 7)), r"\[0, 7\], not torch.float32"),
    "another width": ([smashed(0)], gradient(0, torch.ones(4, 8)), r"\[4, 8\], not"),
    "another dtype": ([smashed(0)], gradient(0, torch.ones(4, 7).double()), "torch.float64"),
    "NaN": ([smashed(0)], gradient(0, torch.full((4, 7), torch.nan)), "NaN or infinity"),
    "infinity": ([smashed(0)], gradient(0, torch.full((4, 7), torch.inf)), "NaN or infinity"),
    "no gradient": ([smashed(0)], Frame(Kind.OUTPUT_GRADIENT, 0), "holds the tensors"),
    "labels with a gradient": (
        [smashed(0)],
        gradient(0, None, labels=torch.zeros(4).long()),
        "holds the tensors",
    ),
    "labels with a batch": (
        [],
        Frame(Kind.SMASHED_DATA, 0, {**smashed(0).tensors, LABELS: torch.zeros(4).long()}),
        "holds the tensors",
    ),
    "the trunk's output": ([], Frame(Kind.TRUNK_OUTPUT, 0, gradient(0).tensors), "TRUNK_OUTPUT"),
    "too large a batch": ([], smashed(0, size=9), "9 examples, not 1 to 8"),
}


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize(("before", "bad", "words"), OUT_OF_PLACE.values(), ids=OUT_OF_PLACE)
def test_an_illegal_frame_is_refused_and_changes_nothing(
    before: list[Frame], bad: Frame, words: str, kind: type[UpdateRule]
) -> None:
    """Break it: count a step when its output is sent, or leave `_open_batch` out of a check."""
    rule = kind(trunk_of(), settings_of(configured()))
    phase = TrainingPhase(rule, U_CUT, server_round=1, participants=[3], give_up=keep)
    session = ServerSession(3, phase)
    session.open()
    for frame in before:
        session.handle(frame)
    weights = weights_of(rule.server_part)
    with pytest.raises(ChannelError, match=words) as refusal:
        session.handle(bad)
    assert (session.finished, session.failure) == (False, str(refusal.value))
    assert session.num_examples == (4 if len(before) == 2 else 0)
    with pytest.raises(ChannelError, match="session is closed"):
        session.handle(gradient(0))
    assert_same_bits(weights_of(rule.server_part), weights)
    rule.close_round({})
    assert_same_bits(weights_of(rule.server_part), weights)
    rule.close()


@pytest.mark.parametrize("tree", [False, True], ids=["tensor", "tree"])
def test_evaluation_returns_the_output_and_refuses_a_gradient(serve: Serve, tree: bool) -> None:
    server = u_serving(Concatenated, tree=tree)
    address, before = serve(server), weights_of(server.server_part)
    bottom, top, trunk = bottom_of(tree=tree), top_of(tree=tree), trunk_of(tree=tree).eval()
    tokens = server.open_round(Purpose.EVALUATE, [0, 1])
    cut = U_TREE_CUT if tree else U_CUT
    client = UClient(address, tokens[0], tree=tree)
    with client.session:
        for images, labels in batches_of(0, 8, 3):
            output = client.session.evaluate_trunk(bottom(images))
            result = score(top(output), labels)
            expected = score(top(trunk(bottom(images))), labels)
            assert result.loss.item() == expected.loss.item()
            assert result.num_correct.item() == expected.num_correct.item()
        client.session.finish()
    with stream_to(address, tokens[1], cut=cut) as stream:
        with torch.no_grad():
            hidden = pack_cut(bottom(batches_of(0, 4)[0][0]))
        answer = stream.exchange(Frame(Kind.SMASHED_DATA, 0, hidden))
        assert answer.kind is Kind.TRUNK_OUTPUT
        with pytest.raises(ChannelError, match="OUTPUT_GRADIENT"):
            stream.exchange(gradient(1))
    report = server.report()
    assert report.num_examples == {0: 11}
    assert sorted(report.failures) == [1]
    assert_same_bits(weights_of(server.server_part), before)


@pytest.mark.parametrize("tree", [False, True], ids=["tensor", "tree"])
def test_the_ledger_equals_the_lengths_of_what_crossed(
    serve_direct: Serve, serve_grpc: Serve, tree: bool
) -> None:
    """Break it: count an answer before it is encoded, or not at all in `DirectStream`."""
    server, direct = u_serving(InTurn, tree=tree), u_serving(InTurn, tree=tree)
    with CountingProxy(serve_grpc(server)) as wire:
        tokens = server.open_round(Purpose.TRAIN, [0])
        UClient(wire.address, tokens[0], tree=tree).train(DATA[0])
        report = server.report()
    assert report.traffic == Traffic(wire.uplink_bytes, wire.downlink_bytes)
    assert wire.messages == 2 * 3 + 1
    address = serve_direct(direct)
    UClient(address, direct.open_round(Purpose.TRAIN, [0])[0], tree=tree).train(DATA[0])
    assert direct.report().traffic == report.traffic
