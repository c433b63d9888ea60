"""The server's end of one participant's stream: every frame is checked before it counts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import nn

from fedsplit.channel.endpoint import nothing
from fedsplit.channel.frame import (
    CUT_PREFIX,
    LABELS,
    LOSS,
    NUM_CORRECT,
    Frame,
    Kind,
    pack_cut,
    unpack_cut,
)
from fedsplit.channel.ledger import Traffic
from fedsplit.errors import ChannelError
from fedsplit.split.checks import CutSpec, check_order
from fedsplit.split.rules import UpdateRule
from fedsplit.split.steps import State, StepResult, evaluate_step

_REVOKED = "it had not finished when the round ended"


class ServerSession:
    """One participant in one round.

    Parameters
    ----------
    participant : int
        Its partition id.
    server_part : nn.Module
        What evaluates, if there is no rule.
    rule : UpdateRule | None
        What trains; None for an evaluation round.
    cut : CutSpec
        What legal smashed data is.
    """

    def __init__(
        self, participant: int, *, server_part: nn.Module, rule: UpdateRule | None, cut: CutSpec
    ) -> None:
        self.participant = participant
        self.traffic = Traffic()
        self.num_examples = 0
        self.finished = False
        self.failure = "it never opened its stream"
        self.on_finish: Callable[[], object] = lambda: None
        self._server_part = server_part
        self._rule = rule
        self._cut = cut
        self._next_step = 0
        self._opened = False
        self._open = False
        self._revoked = False
        # `close` comes from other threads while a frame is being answered
        self._lock = threading.Lock()
        self._on_revoke: Callable[[], object] = nothing

    def open(self, on_revoke: Callable[[], object] = nothing) -> None:
        """Take the participant in, once only; `on_revoke` is called if the server ends it."""
        with self._lock:
            if self._opened or self._revoked:
                raise ChannelError(
                    f"Refused: the token of client {self.participant} has been used already, or "
                    "its round is over; it is good for one stream of one round."
                )
            self._opened = self._open = True
            self._on_revoke = on_revoke
            self.failure = "its stream is still open"
            if self._rule is not None:
                self._rule.begin(self.participant)

    def handle(self, frame: Frame) -> Frame:
        """Answer one frame; a refused one ends the session and leaves the server as it was.

        Raises
        ------
        ChannelError
            If the frame is not exactly the next legal one.
        """
        with self._lock:
            if self._revoked and self._open:
                self._drop(_REVOKED)
            if not self._open:
                raise ChannelError(f"Refused: the session is closed ({self.failure}).")
            try:
                return self._answer(frame)
            except ChannelError as error:
                self._drop(str(error))
                raise

    def close(self, reason: str) -> None:
        """End the session; unless it has finished, its contribution is dropped."""
        with self._lock:
            if self._open:
                self._drop(reason)

    def revoke(self) -> None:
        """End the session from the server's side, because the round is over."""
        self._revoked = True  # before the lock, which steps in quick succession could keep
        with self._lock:
            cut_off = self._open
            if cut_off:
                self._drop(_REVOKED)
        if cut_off:
            self._on_revoke()

    def _answer(self, frame: Frame) -> Frame:
        check_order(frame, step=self._next_step)
        if frame.kind is Kind.FINISH and not frame.tensors:
            if self._rule is not None:
                self._rule.finish(self.participant)
            self.finished, self._open, self.failure = True, False, "it has finished"
            self.on_finish()
            return Frame(Kind.FINISHED, frame.step)
        if frame.kind is not Kind.SMASHED_DATA:
            raise ChannelError(
                f"Refused: a {frame.kind.name} frame with {len(frame.tensors)} tensors is not "
                "what a client sends."
            )
        self._cut.check(frame)
        result, cut_gradient = self._compute(frame)
        self._next_step += 1
        self.num_examples += len(frame.tensors[LABELS])
        kind = Kind.EVALUATION if self._rule is None else Kind.CUT_GRADIENT
        scores = {LOSS: result.loss.detach().float(), NUM_CORRECT: result.num_correct}
        return Frame(kind, frame.step, {**pack_cut(cut_gradient), **scores})

    def _compute(self, frame: Frame) -> tuple[StepResult, State]:
        device = next((p.device for p in self._server_part.parameters()), torch.device("cpu"))
        # In the bottom's order: the bytes of a frame come in the order of their names.
        names = [CUT_PREFIX + name for name in self._cut.tensors]
        smashed = unpack_cut({name: frame.tensors[name].to(device) for name in names})
        labels = frame.tensors[LABELS].to(device)
        if self._rule is None:
            return evaluate_step(self._server_part, smashed, labels), {}
        return self._rule.step(self.participant, smashed, labels)

    def _drop(self, reason: str) -> None:
        self._open = False
        self.failure = reason
        if self._rule is not None:
            self._rule.drop(self.participant)
