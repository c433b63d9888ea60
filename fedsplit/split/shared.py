"""The base of the update rules that train one server part for all participants."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from fedsplit.snapshot import Snapshot, load_optimizer_state, optimizer_state
from fedsplit.split.accumulation import Accumulation
from fedsplit.split.lockstep import GiveUp, Lockstep, keep
from fedsplit.split.rules import RuleSettings, UpdateRule
from fedsplit.split.steps import check_gradients

_T = TypeVar("_T")


class SharedServerPart(UpdateRule):
    """One server part, whose optimizer lives as long as the run.

    At step t all participants with t < T_k deliver. None waits for a participant that has
    finished or failed. Steps in which a failed participant took part are kept.
    """

    def __init__(self, server_part: nn.Module, settings: RuleSettings) -> None:
        super().__init__(server_part, settings)
        training = settings.training
        self.optimizer = training.make_optimizer(self.server_part.named_parameters())
        self._steps = Accumulation(self.optimizer, training)
        self._lockstep: Lockstep[Any, Any] = Lockstep(
            join_seconds=settings.join_seconds,
            step_seconds=settings.step_seconds,
            give_up=self.give_up,
        )
        # The C library keeps freed memory for the thread that used it. If each participant's
        # thread computed its steps, every one of them would keep the memory of a step.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fedsplit-server-part")

    @property
    def delivered(self) -> frozenset[int]:
        """The participants that wait for the others in the current step."""
        return self._lockstep.delivered

    def open_round(
        self, server_round: int, participants: Collection[int], give_up: GiveUp = keep
    ) -> None:
        """Begin a round; its first step waits for all of these participants."""
        super().open_round(server_round, participants, give_up)
        self.settings.training.set_rate(self.optimizer, server_round)
        self._lockstep.open(participants)

    def begin(self, participant: int) -> None:
        """Admit a participant, unless the others have given it up already."""
        self._lockstep.require(participant)

    def finish(self, participant: int) -> None:
        """Let the others continue without a participant that has no more batches."""
        self._lockstep.leave(participant)

    def drop(self, participant: int) -> None:
        """Let the others continue without a participant that has failed."""
        self._lockstep.leave(participant)

    def interrupt(self) -> None:
        """Wake all participants that wait for a step."""
        self._lockstep.close()

    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Take the step of the last batches, if they are fewer than a step has."""
        self._steps.finish()

    def close(self) -> None:
        """Wake all participants that wait for a step, and end the thread."""
        self.interrupt()
        self._thread.shutdown()

    def _computed(self, compute: Callable[..., _T], *values: object) -> _T:
        """Compute in the one thread that does all steps."""
        return self._thread.submit(compute, *values).result()

    @contextmanager
    def _batch(self, num_examples: int) -> Iterator[None]:
        """Add the gradients that the block computes to the optimizer's step, if they are finite."""
        self._steps.begin()
        try:
            yield
            check_gradients(self.server_part)
        except BaseException:
            self._steps.undo()
            raise
        self._steps.end(num_examples)

    def state_dict(self) -> Snapshot:
        """Return the server part and its optimizer."""
        return {**super().state_dict(), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        super().load_state_dict(state)
        load_optimizer_state(self.optimizer, state["optimizer"])
