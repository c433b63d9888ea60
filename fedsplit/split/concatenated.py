"""The update rule of parallel split learning: one update on all batches of a step together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from fedsplit.boundary import State, concatenate, each, examples, length, zeros
from fedsplit.errors import ChannelError
from fedsplit.split import pieces
from fedsplit.split.magnitude import magnitudes
from fedsplit.split.rules import RuleSettings
from fedsplit.split.shared import SharedServerPart
from fedsplit.split.steps import PendingStep, guarded_buffers

_ForAll = Callable[[Mapping[int, State]], Mapping[int, State]]


class Concatenated(SharedServerPart):
    """At each step one update on all batches together; each example weighs the same.

    Parallel split learning (Jeon & Kim, "Privacy-Sensitive Parallel Split Learning", ICOIN 2020).
    With B_k of the step's B examples from participant k, the loss of the step is
    sum(B_k / B * L_k). Participant k receives the gradient of its own mean loss L_k.
    """

    def __init__(self, server_part: nn.Module, settings: RuleSettings) -> None:
        super().__init__(server_part, settings)
        self._pending: PendingStep | None = None
        self._smashed: State = {}
        self._sizes: dict[int, int] = {}

    @classmethod
    def batches_at_once(cls, server_part: nn.Module, participants: int, length: int) -> int:
        """Return how many batches are computed at a time (see `pieces`)."""
        return pieces.batches_at_once(server_part, participants, length)

    def forward(self, participant: int, smashed: State) -> State:
        """Wait for all batches of the step, and compute them as one."""
        return self._together(participant, smashed, self._forward_all)

    def backward(self, participant: int, gradient: State) -> State:
        """Wait for all gradients of the step, and make one update with them."""
        return self._together(participant, gradient, self._backward_all)

    def interrupt(self) -> None:
        """Wake all waiting participants, and drop their step."""
        super().interrupt()
        self._pending = None

    def _together(self, participant: int, value: State, compute: _ForAll) -> State:
        outcome: State = self._lockstep.together(
            participant, value, lambda values: self._computed(compute, values)
        )
        return outcome

    def _forward_all(self, smashed: Mapping[int, State]) -> Mapping[int, State]:
        self._sizes = {k: length(state) for k, state in smashed.items()}
        self._smashed = concatenate(list(smashed.values()))
        run = partial(pieces.forward, self.server_part, lengths=list(self._sizes.values()))
        with guarded_buffers(self.server_part, lambda: _largest(smashed)):
            self._pending = PendingStep(run, self._smashed, cut_gradient=self.settings.cut_gradient)
        slices = self._slices(self._pending.output)
        # Copies, as over a wire: arithmetic can depend on alignment.
        return {k: each(part, torch.clone) for k, part in slices.items()}

    def _backward_all(self, gradients: Mapping[int, State]) -> Mapping[int, State]:
        assert self._pending is not None
        pending, self._pending = self._pending, None
        total = sum(self._sizes[k] for k in gradients)
        one, example = next(iter(gradients.items()))
        parts = [
            # A participant that has failed since the forward pass contributes no gradient.
            _scaled(gradients[k], size / total)
            if k in gradients
            else zeros(example, size, self._sizes[one])
            for k, size in self._sizes.items()
        ]
        try:
            with self._batch(total):
                cut_gradients = self._slices(pending.backward(concatenate(parts)))
        except ChannelError:
            if len(gradients) == len(self._sizes):
                raise
            # The activations of a failed participant may be infinite, and 0 times that is NaN.
            smashed = self._slices(self._smashed)
            self._forward_all({k: smashed[k] for k in gradients})
            return self._backward_all(gradients)
        return {k: _scaled(cut_gradients[k], total / self._sizes[k]) for k in gradients}

    def _slices(self, state: State) -> dict[int, State]:
        """Give each participant its own examples of a concatenated state."""
        slices: dict[int, State] = {}
        start, total = 0, sum(self._sizes.values())
        for participant, size in self._sizes.items():
            slices[participant] = examples(state, start, start + size, total)
            start += size
        return slices


def _largest(smashed: Mapping[int, State]) -> str:
    sizes = {k: max(magnitudes(state).values(), default=0.0) for k, state in smashed.items()}
    largest = max(sizes, key=sizes.__getitem__)
    return f"A step (the largest values in it, up to {sizes[largest]:.3g}, are client {largest}'s)"


def _scaled(state: State, factor: float) -> State:
    return each(state, lambda tensor: tensor * factor)
