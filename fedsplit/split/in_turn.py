"""The update rule of SFLV2 and of sequential split learning: one update for each batch, in turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from fedsplit.boundary import State, length
from fedsplit.seeding import generator
from fedsplit.split.lockstep import GiveUp, keep
from fedsplit.split.rules import RuleSettings
from fedsplit.split.shared import SharedServerPart
from fedsplit.split.steps import PendingStep, guarded_buffers
from fedsplit.split.turns import Turns


class InTurn(SharedServerPart):
    """At each step one update for each participant, in a fresh random order.

    SplitFed V2 (Thapa et al., AAAI 2022, section 3.4); with one participant at a time, it is
    sequential split learning.

    Attributes
    ----------
    order : list[tuple[int, ...]]
        For each step of the round, its participants in the order of their updates.
    """

    def __init__(self, server_part: nn.Module, settings: RuleSettings) -> None:
        super().__init__(server_part, settings)
        self.order: list[tuple[int, ...]] = []
        self._turns = Turns(settings.step_seconds, self.give_up)
        self._pending: PendingStep | None = None
        self._server_round = 1

    def open_round(
        self, server_round: int, participants: Collection[int], give_up: GiveUp = keep
    ) -> None:
        """Begin a round, which has its own random orders."""
        super().open_round(server_round, participants, give_up)
        self._server_round = server_round
        self.order = []

    def forward(self, participant: int, smashed: State) -> State:
        """Wait until the step is complete and for the participant's turn in it; then compute."""
        self._lockstep.together(participant, None, self._draw_order)
        self._turns.take(participant)
        output = self._computed(self._forward, participant, smashed)
        self._turns.lend(participant)
        self._lockstep.answer(participant)
        return output

    def backward(self, participant: int, gradient: State) -> State:
        """Update the server part, and pass the turn on."""
        self._turns.resume(participant)
        self._lockstep.serve([participant])
        try:
            return self._computed(self._backward, gradient)
        finally:
            self._turns.leave(participant)
            self._lockstep.answer(participant)

    def drop(self, participant: int) -> None:
        """Let the others continue; the next in line has its turn."""
        super().drop(participant)
        self._turns.leave(participant)

    def interrupt(self) -> None:
        """Wake all waiting participants."""
        super().interrupt()
        self._turns.close()

    def _forward(self, participant: int, smashed: State) -> State:
        with guarded_buffers(self.server_part, lambda: f"A batch of client {participant}"):
            self._pending = PendingStep(
                self.server_part, smashed, cut_gradient=self.settings.cut_gradient
            )
        return self._pending.output

    def _backward(self, gradient: State) -> State:
        assert self._pending is not None
        pending, self._pending = self._pending, None
        with self._batch(length(gradient)):
            return pending.backward(gradient)

    def _draw_order(self, delivered: Mapping[int, None]) -> Mapping[int, None]:
        participants = list(delivered)
        random = generator(
            self.settings.training.seed, "order", self._server_round, len(self.order)
        )
        permutation = torch.randperm(len(participants), generator=random).tolist()
        self.order.append(tuple(participants[index] for index in permutation))
        self._turns.line_up(self.order[-1])
        self._lockstep.serve(participants)  # its turn may come long after the step began
        return dict.fromkeys(participants)
