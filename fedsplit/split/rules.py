"""Update rules: how the server part learns from the participants' steps."""

from __future__ import annotations

import copy
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.channel.codec import separate
from fedsplit.config import Config
from fedsplit.errors import ChannelError
from fedsplit.split.steps import State, StepResult, make_optimizer, server_step


class UpdateRule(ABC):
    """What the split server does with the steps of a training round.

    Calls for one participant never overlap; those for different participants may.
    """

    def __init__(self, server_part: nn.Module, config: Config) -> None:
        self.server_part = server_part
        self.config = config

    @abstractmethod
    def begin(self, participant: int) -> None:
        """Take in a participant that has opened its stream."""

    @abstractmethod
    def step(self, participant: int, smashed: State, labels: Tensor) -> tuple[StepResult, State]:
        """Train on one batch; return its result and the cut gradient."""

    @abstractmethod
    def finish(self, participant: int) -> None:
        """Keep the work of a participant that has done all its steps."""

    @abstractmethod
    def drop(self, participant: int) -> None:
        """Leave a participant out that has failed, whatever it has done so far."""

    @abstractmethod
    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Update the server part from the accepted participants.

        Parameters
        ----------
        num_examples : Mapping[int, int]
            Participant -> examples it trained on; the weight n_k.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the rule holds."""


class PerParticipantCopies(UpdateRule):
    """A copy of the server part for each participant, averaged by n_k at the round's end.

    SplitFed V1 (Thapa et al., AAAI 2022, algorithm 1). A copy is in memory while its
    participant trains; a finished one waits on disk until it is known whose bottoms the round
    accepts. So peak memory grows with the participants that train at the same time only.
    """

    def __init__(self, server_part: nn.Module, config: Config) -> None:
        super().__init__(server_part, config)
        self._training: dict[int, tuple[nn.Module, Optimizer]] = {}
        self._finished = Path(tempfile.mkdtemp(prefix="fedsplit-copies-"))

    def begin(self, participant: int) -> None:
        """Copy the server part, with an optimizer that lives for this round."""
        server_copy = copy.deepcopy(self.server_part).train()
        optimizer = make_optimizer(server_copy.parameters(), self.config)
        self._training[participant] = (server_copy, optimizer)

    def step(self, participant: int, smashed: State, labels: Tensor) -> tuple[StepResult, State]:
        """Train the participant's own copy."""
        server_copy, optimizer = self._training[participant]
        return server_step(server_copy, optimizer, smashed, labels)

    def finish(self, participant: int) -> None:
        """Put the trained copy by, unless its last step has made it worthless."""
        server_copy, _ = self._training.pop(participant)
        if not all(bool(torch.isfinite(weight).all()) for weight in server_copy.parameters()):
            raise ChannelError(
                f"Training diverged: client {participant}'s copy of the server part has NaN or "
                "infinity in it. Lower learning-rate."
            )
        save_file(separate(server_copy.state_dict()), self._file(participant))

    def drop(self, participant: int) -> None:
        """Forget the participant's copy."""
        self._training.pop(participant, None)
        self._file(participant).unlink(missing_ok=True)

    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Average the accepted copies, in the order of participants so that bits repeat."""
        total = sum(num_examples.values())
        if total:
            average = {
                name: torch.zeros_like(tensor, dtype=torch.float64)
                for name, tensor in self.server_part.state_dict().items()
            }
            for participant in sorted(num_examples):
                weight = num_examples[participant] / total
                for name, tensor in load_file(self._file(participant)).items():
                    average[name].add_(tensor.to(average[name].device), alpha=weight)
            for name, tensor in self.server_part.state_dict().items():
                if not tensor.is_floating_point():  # a count of 3 may have become 2.9999...
                    average[name].round_()
            # load_state_dict casts back to each tensor's own dtype
            self.server_part.load_state_dict(average)
        self._training.clear()
        for file in self._finished.iterdir():
            file.unlink()

    def close(self) -> None:
        """Remove the folder of finished copies."""
        shutil.rmtree(self._finished, ignore_errors=True)

    def _file(self, participant: int) -> Path:
        return self._finished / f"{participant}.safetensors"
