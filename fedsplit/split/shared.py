"""The update rules with one server part for all: in turn, or on the concatenated batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import nn

from fedsplit.config import Config
from fedsplit.errors import ChannelError
from fedsplit.seeding import generator
from fedsplit.split import pieces
from fedsplit.split.lockstep import Lockstep
from fedsplit.split.rules import UpdateRule
from fedsplit.split.schedule import learning_rate
from fedsplit.split.steps import (
    PendingStep,
    check_gradients,
    make_optimizer,
    set_learning_rate,
    update,
)
from fedsplit.split.turns import Turns
from fedsplit.states import State, concatenate, each, examples, length, zeros

_ForAll = Callable[[Mapping[int, State]], Mapping[int, State]]


class SharedServerPart(UpdateRule):
    """One server part, whose optimizer lives as long as the run.

    At step t all participants with t < T_k deliver; whoever has finished or failed is no longer
    waited for. Steps that a failed participant has taken part in stay.
    """

    def __init__(self, server_part: nn.Module, config: Config) -> None:
        super().__init__(server_part, config)
        self._optimizer = make_optimizer(server_part.parameters(), config)
        self._lockstep: Lockstep[Any, Any] = Lockstep(
            join_seconds=config.channel.join_timeout, step_seconds=config.channel.step_timeout
        )
        self._lockstep.on_late = self.give_up

    def open_round(self, server_round: int, participants: Collection[int]) -> None:
        """Begin a round; its first step waits for all of these participants."""
        set_learning_rate(self._optimizer, learning_rate(self.config, server_round))
        self.server_part.train()
        self._lockstep.open(participants)

    def begin(self, participant: int) -> None:
        """Take in a participant, unless the others have given it up already."""
        self._lockstep.require(participant)

    def finish(self, participant: int) -> None:
        """Let the others go on without a participant that has no more batches."""
        self._lockstep.leave(participant)

    def drop(self, participant: int) -> None:
        """Let the others go on without a participant that has failed."""
        self._lockstep.leave(participant)

    def interrupt(self) -> None:
        """Wake everyone who waits for a step."""
        self._lockstep.close()

    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Nothing is left to do: every step has updated the one server part."""

    def close(self) -> None:
        """Wake everyone who waits for a step."""
        self._lockstep.close()

    def _update(self) -> None:
        """Take one step for the gradients that are there, if they are finite."""
        check_gradients(self.server_part)
        update(self._optimizer, self.config.clip_norm)


class InTurn(SharedServerPart):
    """At each step one update for each participant, in a fresh random order.

    SplitFed V2 (Thapa et al., AAAI 2022, section 3.4); with one participant at a time, it is
    sequential split learning.

    Attributes
    ----------
    order : list[tuple[int, ...]]
        Of each step of the round, its participants in the order of their updates.
    """

    def __init__(self, server_part: nn.Module, config: Config) -> None:
        super().__init__(server_part, config)
        self.order: list[tuple[int, ...]] = []
        self._turns = Turns(config.channel.step_timeout)
        self._turns.on_late = self.give_up
        self._pending: PendingStep | None = None
        self._server_round = 1

    def open_round(self, server_round: int, participants: Collection[int]) -> None:
        """Begin a round with its own random orders."""
        super().open_round(server_round, participants)
        self._server_round = server_round
        self.order = []

    def forward(self, participant: int, smashed: State) -> State:
        """Wait for the step to be complete and for one's turn in it; then compute."""
        self._lockstep.together(participant, None, self._draw_order)
        self._turns.take(participant)
        self._pending = PendingStep(self.server_part, smashed, cut_gradient=self.cut_gradient)
        output = self._pending.output
        self._turns.lend(participant)
        self._lockstep.answer(participant)
        return output

    def backward(self, participant: int, gradient: State) -> State:
        """Update the server part, and pass the turn on."""
        self._turns.resume(participant)
        self._lockstep.serve([participant])
        assert self._pending is not None
        try:
            self._optimizer.zero_grad(set_to_none=True)
            cut_gradient = self._pending.backward(gradient)
            self._update()
        finally:
            self._pending = None
            self._turns.leave(participant)
            self._lockstep.answer(participant)
        return cut_gradient

    def drop(self, participant: int) -> None:
        """Let the others go on, and whoever is next have its turn."""
        super().drop(participant)
        self._turns.leave(participant)

    def interrupt(self) -> None:
        """Wake everyone who waits."""
        super().interrupt()
        self._turns.close()

    def close(self) -> None:
        """Wake everyone who waits."""
        self.interrupt()

    def _draw_order(self, delivered: Mapping[int, None]) -> Mapping[int, None]:
        participants = list(delivered)
        random = generator(self.config.seed, "order", self._server_round, len(self.order))
        permutation = torch.randperm(len(participants), generator=random).tolist()
        self.order.append(tuple(participants[index] for index in permutation))
        self._turns.line_up(self.order[-1])
        self._lockstep.serve(participants)  # a turn may come long after the step has begun
        return dict.fromkeys(participants)


class Concatenated(SharedServerPart):
    """At each step one update on all batches together; each example weighs the same.

    Parallel split learning (Jeon & Kim, "Privacy-Sensitive Parallel Split Learning", ICOIN 2020).
    With B_k examples of participant k among B, the loss of the step is sum(B_k / B * L_k); k gets
    back the gradient of its own mean loss L_k.
    """

    def __init__(self, server_part: nn.Module, config: Config) -> None:
        super().__init__(server_part, config)
        self._pending: PendingStep | None = None
        self._smashed: State = {}
        self._sizes: dict[int, int] = {}
        # The C library keeps freed memory for the thread that had it. A large step in the thread
        # of whoever comes last would leave its size behind with one participant after another.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fedsplit-server-part")

    @classmethod
    def batches_at_once(cls, server_part: nn.Module, participants: int, length: int) -> int:
        """Return the batches of a piece, if the step is too large for one (see `pieces`)."""
        return pieces.batches_at_once(server_part, participants, length)

    def forward(self, participant: int, smashed: State) -> State:
        """Wait for all batches of the step; they are computed as one."""
        return self._together(participant, smashed, self._forward_all)

    def backward(self, participant: int, gradient: State) -> State:
        """Wait for all gradients of the step; they make one update."""
        return self._together(participant, gradient, self._backward_all)

    def interrupt(self) -> None:
        """Wake everyone who waits, and forget the step that they waited for."""
        super().interrupt()
        self._pending = None

    def close(self) -> None:
        """Wake everyone who waits, and end the thread."""
        super().close()
        self._thread.shutdown()

    def _together(self, participant: int, value: State, compute: _ForAll) -> State:
        outcome: State = self._lockstep.together(
            participant, value, lambda values: self._thread.submit(compute, values).result()
        )
        return outcome

    def _forward_all(self, smashed: Mapping[int, State]) -> Mapping[int, State]:
        self._sizes = {k: length(state) for k, state in smashed.items()}
        self._smashed = concatenate(list(smashed.values()))
        run = partial(pieces.forward, self.server_part, lengths=list(self._sizes.values()))
        self._pending = PendingStep(run, self._smashed, cut_gradient=self.cut_gradient)
        slices = self._slices(self._pending.output)
        # In memory of their own, as over a wire: arithmetic can depend on alignment.
        return {k: each(part, torch.clone) for k, part in slices.items()}

    def _backward_all(self, gradients: Mapping[int, State]) -> Mapping[int, State]:
        assert self._pending is not None
        pending, self._pending = self._pending, None
        total = sum(self._sizes[k] for k in gradients)
        one, example = next(iter(gradients.items()))
        parts = [
            # Whoever has failed since the forward pass leaves its examples without a gradient.
            _scaled(gradients[k], size / total)
            if k in gradients
            else zeros(example, size, self._sizes[one])
            for k, size in self._sizes.items()
        ]
        self._optimizer.zero_grad(set_to_none=True)
        cut_gradients = self._slices(pending.backward(concatenate(parts)))
        try:
            self._update()
        except ChannelError:
            if len(gradients) == len(self._sizes):
                raise
            # Examples that have failed may have become infinite, and zero times that is NaN.
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


def _scaled(state: State, factor: float) -> State:
    return each(state, lambda tensor: tensor * factor)
