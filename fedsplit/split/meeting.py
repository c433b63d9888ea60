"""A round without steps, which shows whether all participants can be connected at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from fedsplit.config import Config
from fedsplit.errors import ChannelError
from fedsplit.split.lockstep import Lockstep
from fedsplit.split.rules import UpdateRule
from fedsplit.states import State


class Meeting(UpdateRule):
    """Nobody finishes before everybody has come, or has been waited for."""

    def __init__(self, server_part: nn.Module, config: Config) -> None:
        super().__init__(server_part, config)
        wait = config.channel.join_timeout
        self._lockstep: Lockstep[None, None] = Lockstep(join_seconds=wait, step_seconds=wait)

    def open_round(self, server_round: int, participants: Collection[int]) -> None:
        """Begin a meeting of these participants."""
        self._lockstep.open(participants)

    def begin(self, participant: int) -> None:
        """Let a participant in, unless the meeting has ended."""
        self._lockstep.require(participant)

    def forward(self, participant: int, smashed: State) -> State:
        """Refuse a batch: there is nothing to train."""
        raise ChannelError("Refused: in a meeting of the participants nothing is trained.")

    def backward(self, participant: int, gradient: State) -> State:
        """Refuse a batch: there is nothing to train."""
        raise ChannelError("Refused: in a meeting of the participants nothing is trained.")

    def finish(self, participant: int) -> None:
        """Wait for the others."""
        self._lockstep.together(participant, None, dict)

    def drop(self, participant: int) -> None:
        """Go on without a participant."""
        self._lockstep.leave(participant)

    def interrupt(self) -> None:
        """Wake everyone who waits."""
        self._lockstep.close()

    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Nothing has been learnt."""

    def close(self) -> None:
        """Nothing is held."""
