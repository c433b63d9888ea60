"""Toy parts, rounds and clients: B batch, D width 6 -> 4 at the cut, 5 classes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.boundary import Boundary, State, TensorSpec, by_name
from fedsplit.channel.connect import connect
from fedsplit.channel.endpoint import Stream
from fedsplit.channel.frame import Frame, Kind
from fedsplit.config import Config
from fedsplit.seeding import generator, seeded_init
from fedsplit.split.client import SplitSession
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import RuleSettings
from fedsplit.split.server import Progress, SplitServer, silent
from fedsplit.split.session import ServerSession
from fedsplit.split.steps import score
from fedsplit.split.training import Training
from fedsplit.split.wire import CUT_PREFIX, LABELS, Names, Wire

NUM_LABELS = 5
BATCH_SIZE = 8


def wire_of(
    tensors: Mapping[str, TensorSpec],
    num_labels: int,
    max_batch_size: int,
    *,
    output: Mapping[str, TensorSpec] | None = None,
    cut_gradient: bool = True,
    output_gradient: bool = True,
) -> Wire:
    """Return a wire; a lone tensor called ``hidden`` passes the boundary bare."""
    return Wire(
        _boundary(tensors),
        num_labels,
        max_batch_size,
        output=None if output is None else _boundary(output),
        cut_gradient=cut_gradient,
        output_gradient=output_gradient,
    )


def _boundary(tensors: Mapping[str, TensorSpec]) -> Boundary:
    return Boundary(tensors, bare=list(tensors) == ["hidden"])


def pack_cut(state: State) -> dict[str, Tensor]:
    """Name the tensors at the cut as a frame does."""
    return {CUT_PREFIX + name: tensor for name, tensor in by_name(state).items()}


CUT = wire_of({"hidden": TensorSpec((1, 4), torch.float32)}, NUM_LABELS, BATCH_SIZE)
TREE_CUT = wire_of(
    {
        "z_hidden": TensorSpec((1, 4), torch.float32),
        "place": TensorSpec((1,), torch.int64),
        "unused": TensorSpec((1, 3), torch.float32),
        "a_tap": TensorSpec((1, 4), torch.float32),
    },
    NUM_LABELS,
    BATCH_SIZE,
)

Weights = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
Serve = Callable[[SplitServer], str]


class TreeBottom(nn.Module):
    """Returns several tensors out of alphabetical order; one of integers, one unused."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 4)
        self.tap = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.hidden(x)
        return {
            "z_hidden": hidden,
            "place": (x[:, 0] > 0).long(),
            "unused": hidden[:, :3],
            "a_tap": self.tap(x),
        }


class TreeServer(nn.Module):
    """Depends on the order of the tensors in the dict."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(2, 4)
        self.head = nn.Linear(12, NUM_LABELS)

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        floats = [t for name, t in state.items() if name in ("a_tap", "z_hidden")]
        logits: Tensor = self.head(torch.cat([*floats, self.places(state["place"])], dim=1))
        return logits


_making = threading.Lock()  # constructors draw from torch's global generator


def bottom_of(*, tree: bool = False) -> nn.Module:
    with _making, seeded_init(0, "bottom"):
        return TreeBottom() if tree else nn.Linear(6, 4)


def server_part_of(*, tree: bool = False) -> nn.Module:
    with _making, seeded_init(0, "server"):
        if tree:
            return TreeServer()
        return nn.Sequential(nn.Tanh(), nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, NUM_LABELS))


def config_of(**overrides: object) -> Config:
    ours = {"batch-size": BATCH_SIZE, "optimizer": "sgd", "momentum": 0.9, "learning-rate": 0.1}
    return Config.load({**ours, "weight-decay": 0.0}, overrides)


def settings_of(config: Config | None = None) -> RuleSettings:
    """Return what a rule works with."""
    config = config_of() if config is None else config
    return RuleSettings(
        training=Training.of_server(config),
        join_seconds=config.channel.join_timeout,
        step_seconds=config.channel.step_timeout,
    )


def optimizer_of(parameters: Iterable[nn.Parameter], config: Config) -> Optimizer:
    """Return the optimizer of a config, with the rate of the first round."""
    return Training.of_clients(config).make_optimizer(("", weight) for weight in parameters)


def batches_of(participant: int, *sizes: int, shape: Sequence[int] = (6,)) -> list[Batch]:
    random = generator(11, "toy batches", participant)
    return [
        (
            torch.randn(size, *shape, generator=random),
            torch.randint(0, NUM_LABELS, (size,), generator=random),
        )
        for size in sizes
    ]


def make_server(
    *, tree: bool = False, config: Config | None = None, server_part: nn.Module | None = None
) -> SplitServer:
    server_part = server_part_of(tree=tree) if server_part is None else server_part
    rule = PerParticipantCopies(server_part, settings_of(config))
    return SplitServer(rule=rule, wire=TREE_CUT if tree else CUT)


def copies_in(server: SplitServer) -> dict[int, nn.Module]:
    """Return the copies that are in memory: participant -> copy."""
    rule = server.rule
    assert isinstance(rule, PerParticipantCopies)
    return dict(rule.training_now)


def files_of(server: SplitServer) -> list[str]:
    rule = server.rule
    assert isinstance(rule, PerParticipantCopies)
    return [file.name for file in rule.finished_files]


def weights_of(module: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


def assert_close(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], *, atol: float = 1e-6
) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=atol, rtol=0)


def stream_to(address: str, token: str, *, step_timeout: float = 30.0, cut: Wire = CUT) -> Stream:
    return connect(address, token, step_timeout=step_timeout, max_frame_bytes=cut.max_frame_bytes)


def break_off(stream: Stream) -> None:
    """End a stream at once, as a client does that fails."""
    stream.__exit__(ConnectionError, ConnectionError(), None)


def smashed_frame(step: int, smashed: State, labels: Tensor) -> Frame:
    return Frame(Kind.SMASHED_DATA, step, {**pack_cut(smashed), LABELS: labels})


class Straight:
    """A stream that hands frames to a server's session directly, and records them."""

    def __init__(self, session: ServerSession) -> None:
        self._session = session
        self.frames: list[Frame] = []

    def exchange(self, frame: Frame) -> Frame:
        answer = self._session.handle(frame)
        self.frames += [frame, answer]
        return answer

    def __enter__(self) -> Straight:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close("the stream has ended")


class Client:
    """A participant with a bottom, an optimizer and a session, driven step by step."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        bottom: nn.Module | None = None,
        config: Config | None = None,
        cut: Wire = CUT,
        names: Names = (),
    ) -> None:
        self.bottom = bottom_of() if bottom is None else bottom
        self.optimizer = optimizer_of(
            self.bottom.parameters(), config_of() if config is None else config
        )
        self.stream = stream_to(address, token, cut=cut)
        self.session = SplitSession(self.stream, cut, names)
        self.losses: list[float] = []

    def step(self, batch: Batch) -> None:
        images, labels = batch
        self.optimizer.zero_grad()
        loss, _ = self.session.train_step(self.bottom(images), labels)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.losses.append(loss.item())

    def train(self, batches: Iterable[Batch]) -> Weights:
        with self.session:
            for batch in batches:
                self.step(batch)
            self.session.finish()
        return weights_of(self.bottom)


def train_jointly(
    bottom: nn.Module, server_part: nn.Module, batches: Iterable[Batch], config: Config
) -> list[float]:
    """Train both parts as one model in plain PyTorch, with one optimizer over both."""
    joined = nn.Sequential(bottom, server_part)
    optimizer = optimizer_of(joined.parameters(), config)
    losses = []
    for images, labels in batches:
        optimizer.zero_grad()
        loss, _ = score(joined(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses


def average_by_hand(
    trained: Sequence[Mapping[str, Tensor]], num_examples: Sequence[int]
) -> Weights:
    """Return the average of weights by numbers of examples, in double precision."""
    total = sum(num_examples)
    return {
        name: sum(
            (w[name].double() * n for w, n in zip(trained, num_examples, strict=True)),
            torch.zeros((), dtype=torch.float64),
        )
        .div(total)
        .to(tensor.dtype)
        for name, tensor in trained[0].items()
    }


def expected_round(batches: Mapping[int, Sequence[Batch]]) -> Weights:
    """Return the server part after one SFLV1 round, computed without the product."""
    trained, counts = [], []
    for participant in sorted(batches):
        server_part = server_part_of()
        train_jointly(bottom_of(), server_part, batches[participant], config_of())
        trained.append(weights_of(server_part))
        counts.append(sum(len(labels) for _, labels in batches[participant]))
    return average_by_hand(trained, counts)


def run_round(
    server: SplitServer,
    address: str,
    batches: Mapping[int, Sequence[Batch]],
    *,
    progress: Progress = silent,
) -> dict[int, Weights]:
    """Train one round, one participant after the other, and average all of them."""
    tokens = server.open_round(Purpose.TRAIN, list(batches), progress=progress)
    trained = {
        participant: Client(address, tokens[participant]).train(batches[participant])
        for participant in batches
    }
    server.close_round(server.report().num_examples)
    return trained


def optimizer_state(optimizer: Optimizer) -> list[Tensor]:
    return [
        value.clone()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def wait_until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
