"""How the server answers a batch: with the labels here (vanilla), or at the client (U-shaped)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fedsplit.channel.frame import (
    CUT_PREFIX,
    LABELS,
    LOSS,
    NUM_CORRECT,
    OUTPUT_PREFIX,
    Frame,
    Kind,
    pack_cut,
    pack_output,
    unpack_cut,
    unpack_output,
)
from fedsplit.errors import ChannelError
from fedsplit.split.checks import CutSpec
from fedsplit.split.rules import UpdateRule
from fedsplit.split.steps import StepResult, evaluate_step
from fedsplit.states import State


class Exchange(ABC):
    """The frames of one participant's batches.

    Parameters
    ----------
    participant : int
        Its partition id.
    server_part : nn.Module
        What evaluates, if there is no rule.
    rule : UpdateRule | None
        What trains; None for an evaluation round.
    cut : CutSpec
        What legally crosses.

    Attributes
    ----------
    num_steps : int
        Batches that have been answered in full.
    num_examples : int
        Examples in them.
    """

    def __init__(
        self, participant: int, *, server_part: nn.Module, rule: UpdateRule | None, cut: CutSpec
    ) -> None:
        self.num_steps = 0
        self.num_examples = 0
        self._participant = participant
        self._server_part = server_part
        self._rule = rule
        self._cut = cut

    @property
    def between_steps(self) -> bool:
        """Whether no batch is half done, so that the participant may finish."""
        return True

    @abstractmethod
    def answer(self, frame: Frame) -> Frame:
        """Answer one frame of the batch that is due.

        Raises
        ------
        ChannelError
            If it is not exactly the next legal one.
        """

    def _step_done(self, batch_size: int) -> None:
        self.num_steps += 1
        self.num_examples += batch_size

    def _smashed(self, frame: Frame) -> State:
        # In the bottom's order: the bytes of a frame come in the order of their names.
        specs = {CUT_PREFIX + name: spec for name, spec in self._cut.tensors.items()}
        # What the images' shape alone says is read on the CPU, where it is: from a GPU every step
        # would wait for it to come back.
        return unpack_cut(
            {
                name: self._here(frame.tensors[name]) if spec.value is None else frame.tensors[name]
                for name, spec in specs.items()
            }
        )

    def _here(self, tensor: Tensor) -> Tensor:
        parameters = self._server_part.parameters()
        return tensor.to(next((p.device for p in parameters), torch.device("cpu")))


class VanillaExchange(Exchange):
    """Smashed data and labels come; the cut gradient goes back, or in evaluation the scores."""

    def answer(self, frame: Frame) -> Frame:
        """Answer ``SMASHED_DATA`` with ``CUT_GRADIENT`` or ``EVALUATION``."""
        if frame.kind is not Kind.SMASHED_DATA:
            raise unexpected(frame)
        batch_size = self._cut.check(frame)
        result, cut_gradient = self._compute(
            self._smashed(frame), self._here(frame.tensors[LABELS])
        )
        self._step_done(batch_size)
        kind = Kind.EVALUATION if self._rule is None else Kind.CUT_GRADIENT
        scores = {LOSS: result.loss.detach().float(), NUM_CORRECT: result.num_correct}
        return Frame(kind, frame.step, {**pack_cut(cut_gradient), **scores})

    def _compute(self, smashed: State, labels: Tensor) -> tuple[StepResult, State]:
        if self._rule is None:
            return evaluate_step(self._server_part, smashed, labels), {}
        return self._rule.step(self._participant, smashed, labels)


class UShapedExchange(Exchange):
    """Smashed data comes, the trunk's output goes; its gradient comes, the cut gradient goes.

    No label is in any frame. In evaluation the trunk's output is the last word, and so it is in
    training if no gradient of it has anywhere to go.
    """

    _open_batch = 0
    """Examples of a batch whose output gradient is due; 0 between two batches."""

    @property
    def between_steps(self) -> bool:
        """Whether no output gradient is due."""
        return self._open_batch == 0

    def answer(self, frame: Frame) -> Frame:
        """Answer ``SMASHED_DATA`` with ``TRUNK_OUTPUT``, ``OUTPUT_GRADIENT`` with the cut's."""
        if frame.kind is Kind.OUTPUT_GRADIENT and self._open_batch and self._rule is not None:
            self._cut.check_output_gradient(frame, self._open_batch)
            names = [OUTPUT_PREFIX + name for name in self._cut.output or {}]
            given = {n: self._here(frame.tensors[n]) for n in names if n in frame.tensors}
            gradient = unpack_output(given)
            if isinstance(gradient, Tensor) and len(names) > 1:
                gradient = {"hidden": gradient}  # the others are whole numbers
            cut_gradient = self._rule.backward(self._participant, gradient)
            self._step_done(self._open_batch)
            self._open_batch = 0
            return Frame(Kind.CUT_GRADIENT, frame.step, pack_cut(cut_gradient))
        if frame.kind is not Kind.SMASHED_DATA or self._open_batch:
            raise unexpected(frame)
        batch_size = self._cut.check(frame)
        smashed = self._smashed(frame)
        if self._rule is None or not self._cut.output_gradient:
            with torch.no_grad():
                output: State = self._server_part(smashed)
            self._step_done(batch_size)
        else:
            output = self._rule.forward(self._participant, smashed)
            self._open_batch = batch_size
        return Frame(Kind.TRUNK_OUTPUT, frame.step, pack_output(output))


def unexpected(frame: Frame) -> ChannelError:
    """Return the error for a frame that no client sends at this point."""
    return ChannelError(
        f"Refused: a {frame.kind.name} frame with {len(frame.tensors)} tensors is not what a "
        "client sends here."
    )
