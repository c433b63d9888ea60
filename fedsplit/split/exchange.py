"""How the server answers a participant's batches, in each phase and topology."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn

from fedsplit.boundary import State
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.checks import refused
from fedsplit.split.divergence import blaming, check_made
from fedsplit.split.magnitude import Magnitudes
from fedsplit.split.payload import Content
from fedsplit.split.rules import UpdateRule
from fedsplit.split.steps import StepResult, evaluate_step
from fedsplit.split.totals import LocalResult, Total, Work
from fedsplit.split.wire import LABELS, Names, Wire


class Exchange(ABC):
    """Answers the frames of one participant's batches.

    Attributes
    ----------
    num_steps : int
        Batches that have been answered completely.
    num_examples : int
        Examples in them.
    work : Work | None
        What the participant can do at most; None = as much as it likes.
    magnitudes : Mapping[Kind, Magnitudes]
        How large what it sends may be, by kind of frame; what is missing may be of any size.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self.num_examples = 0
        self.work: Work | None = None
        self.magnitudes: Mapping[Kind, Magnitudes] = {}

    @property
    def scores(self) -> LocalResult | None:
        """What the server has computed of these batches, or None: the client has the labels."""
        return None

    @property
    def between_steps(self) -> bool:
        """Whether no batch is half-finished, so that the participant may finish."""
        return True

    @abstractmethod
    def answer(self, frame: Frame) -> Frame:
        """Answer one frame of the current batch.

        Raises
        ------
        ChannelError
            If it is not exactly the next legal frame.
        """

    def _step_done(self, batch_size: int) -> None:
        self.num_steps += 1
        self.num_examples += batch_size


class NoExchange(Exchange):
    """Refuse every batch."""

    def answer(self, frame: Frame) -> Frame:
        """Refuse the frame: there is nothing to train."""
        raise ChannelError(
            "Refused: nothing is trained in the rendezvous of the participants before round 1."
        )


class _WireExchange(Exchange):
    """Answers the frames of a wire.

    Parameters
    ----------
    wire : Wire
        What crosses.
    names : Names
        The purpose, round and participant, for a codec that draws.
    server_part : nn.Module
        Its device is where received tensors go.
    """

    def __init__(self, wire: Wire, names: Names, server_part: nn.Module) -> None:
        super().__init__()
        self._wire = wire
        self._names = names
        self._server_part = server_part

    def _received(self, frame: Frame, kind: Kind, batch_size: int | None = None) -> Content:
        """Check a frame of this kind, and return its content."""
        if frame.kind is not kind:
            raise unexpected(frame)
        parameters = self._server_part.parameters()
        device = next((p.device for p in parameters), torch.device("cpu"))
        content = self._wire.unpack(frame, device=device, batch_size=batch_size)
        if kind is Kind.SMASHED_DATA:
            self._check_work(frame, content.batch_size)
        if kind in self.magnitudes:
            self.magnitudes[kind].check(frame, int(self._names[-1]), content)
        return content

    def _check_work(self, frame: Frame, batch_size: int) -> None:
        """Refuse a batch that the participant's images cannot make: it would weigh too much."""
        if self.work is None:
            return
        num_images, steps, examples, _ = self.work
        if self.num_steps >= steps or self.num_examples + batch_size > examples:
            raise refused(
                frame,
                f"with {batch_size} examples follows {self.num_examples} in {self.num_steps} "
                f"batches: the {num_images} images of the client make at most {examples} in "
                f"{steps} a round (a client rule that sends each batch several times in training "
                "says how often with steps_per_batch)",
            )


class _ScoredExchange(_WireExchange):
    """An exchange in which the server has the labels."""

    def __init__(self, wire: Wire, names: Names, server_part: nn.Module) -> None:
        super().__init__(wire, names, server_part)
        self._total = Total()

    @property
    def scores(self) -> LocalResult | None:
        """What the server has computed: the client adds up the same numbers."""
        return self._total.result()

    def _scored(self, result: StepResult, batch_size: int) -> StepResult:
        """Count a batch; return its score as it crosses."""
        sent = StepResult(result.loss.detach().float(), result.num_correct)
        self._total.add(sent, batch_size)
        self._step_done(batch_size)
        return sent


class EvaluationExchange(_ScoredExchange):
    """Vanilla, evaluation: receives smashed data and labels, returns loss and correct count."""

    def answer(self, frame: Frame) -> Frame:
        """Answer ``SMASHED_DATA`` with ``EVALUATION``."""
        content = self._received(frame, Kind.SMASHED_DATA)
        result = evaluate_step(self._server_part, content.state, content.scores[LABELS])
        loss, num_correct = self._scored(result, content.batch_size)
        return self._wire.pack(
            Kind.EVALUATION,
            frame.step,
            {},
            stream=self._names,
            loss=loss,
            num_correct=num_correct,
        )


class TrunkExchange(_WireExchange):
    """U-shaped without training of the trunk: receives smashed data, returns the trunk's output.

    Used in evaluation, and in training if neither bottom nor trunk trains.
    """

    def answer(self, frame: Frame) -> Frame:
        """Answer ``SMASHED_DATA`` with ``TRUNK_OUTPUT``."""
        content = self._received(frame, Kind.SMASHED_DATA)
        with torch.no_grad():
            output: State = self._server_part(content.state)
        self._step_done(content.batch_size)
        return self._wire.pack(Kind.TRUNK_OUTPUT, frame.step, output, stream=self._names)


class TrainingExchange(_ScoredExchange):
    """Vanilla, training: receives smashed data and labels, returns cut gradient and loss."""

    def __init__(self, wire: Wire, names: Names, rule: UpdateRule) -> None:
        super().__init__(wire, names, rule.server_part)
        self._rule = rule
        self._participant = int(names[-1])

    def answer(self, frame: Frame) -> Frame:
        """Answer ``SMASHED_DATA`` with ``CUT_GRADIENT``."""
        content = self._received(frame, Kind.SMASHED_DATA)
        with blaming(type(self._rule), "step") as own:
            result, cut_gradient = self._rule.step(
                self._participant, content.state, content.scores[LABELS]
            )
            check_made(own, "cut gradient", cut_gradient)
        loss, num_correct = self._scored(result, content.batch_size)
        return self._wire.pack(
            Kind.CUT_GRADIENT,
            frame.step,
            cut_gradient,
            stream=self._names,
            loss=loss,
            num_correct=num_correct,
        )


class UShapedExchange(_WireExchange):
    """U-shaped, training: no label is in any frame.

    It receives smashed data and returns the trunk's output, then receives the gradient of that
    output and returns the cut gradient.
    """

    def __init__(self, wire: Wire, names: Names, rule: UpdateRule) -> None:
        super().__init__(wire, names, rule.server_part)
        self._rule = rule
        self._participant = int(names[-1])
        self._open_batch = 0  # examples of the batch whose output gradient is due; 0 = none

    @property
    def between_steps(self) -> bool:
        """Whether no output gradient is due."""
        return self._open_batch == 0

    def answer(self, frame: Frame) -> Frame:
        """Answer ``SMASHED_DATA`` with ``TRUNK_OUTPUT``, ``OUTPUT_GRADIENT`` with the cut's."""
        if self.between_steps:
            content = self._received(frame, Kind.SMASHED_DATA)
            with blaming(type(self._rule), "forward") as own:
                output = self._rule.forward(self._participant, content.state)
                check_made(own, "output", output)
            self._open_batch = content.batch_size
            return self._wire.pack(Kind.TRUNK_OUTPUT, frame.step, output, stream=self._names)
        content = self._received(frame, Kind.OUTPUT_GRADIENT, self._open_batch)
        with blaming(type(self._rule), "backward") as own:
            cut_gradient = self._rule.backward(self._participant, content.state)
            check_made(own, "cut gradient", cut_gradient)
        self._step_done(self._open_batch)
        self._open_batch = 0
        return self._wire.pack(Kind.CUT_GRADIENT, frame.step, cut_gradient, stream=self._names)


def unexpected(frame: Frame) -> ChannelError:
    """Return the error for a frame that is not legal at this point."""
    return ChannelError(
        f"Refused: a {frame.kind.name} frame with {len(frame.tensors)} tensors is not legal at "
        "this point."
    )
