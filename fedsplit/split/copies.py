"""The update rule of SFLV1 and SFLV3: a copy of the server part for each participant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedsplit.boundary import State, length
from fedsplit.errors import DivergedError, cannot_read, cannot_write
from fedsplit.exchanged_state import copy_to_train, exchanged, load_exchanged
from fedsplit.scratch import Scratch
from fedsplit.snapshot import separate
from fedsplit.split.accumulation import Accumulation
from fedsplit.split.checks import all_finite
from fedsplit.split.lockstep import GiveUp, keep
from fedsplit.split.rules import RuleSettings, UpdateRule
from fedsplit.split.steps import PendingStep


class PerParticipantCopies(UpdateRule):
    """A copy of the server part for each participant, averaged by n_k at the round's end.

    SplitFed V1 (Thapa et al., AAAI 2022, algorithm 1). A copy is in memory while its participant
    trains. A finished copy waits on disk until the round's accepted bottoms are known. So peak
    memory grows only with the participants that train at the same time.
    """

    copies = True

    def __init__(self, server_part: nn.Module, settings: RuleSettings) -> None:
        super().__init__(server_part, settings)
        self._training: dict[int, tuple[nn.Module, Accumulation]] = {}
        self._pending: dict[int, PendingStep] = {}
        self._server_round = 1
        self._finished = Scratch("copies")
        self._chosen: Mapping[str, Tensor] = {}

    @property
    def training_now(self) -> Mapping[int, nn.Module]:
        """The copies in memory, by participant."""
        return {participant: copy for participant, (copy, _) in self._training.items()}

    @property
    def finished_files(self) -> list[Path]:
        """The finished copies on disk, sorted by name."""
        return sorted(self._finished.path.glob("*.safetensors"))

    def open_round(
        self, server_round: int, participants: Collection[int], give_up: GiveUp = keep
    ) -> None:
        """Begin a round; its number determines the learning rate."""
        super().open_round(server_round, participants, give_up)
        self._server_round = server_round

    def begin(self, participant: int) -> None:
        """Copy the trainable weights of the server part, with an optimizer for this round."""
        server_copy = copy_to_train(self.server_part).train()
        training = self.settings.training
        optimizer = training.make_optimizer(server_copy.named_parameters(), self._server_round)
        self._training[participant] = (server_copy, Accumulation(optimizer, training))

    def forward(self, participant: int, smashed: State) -> State:
        """Run the participant's own copy."""
        server_copy, _ = self._training[participant]
        self._pending[participant] = PendingStep(
            server_copy, smashed, cut_gradient=self.settings.cut_gradient
        )
        return self._pending[participant].output

    def backward(self, participant: int, gradient: State) -> State:
        """Train the participant's own copy."""
        _, steps = self._training[participant]
        steps.begin()
        cut_gradient = self._pending.pop(participant).backward(gradient)
        steps.end(length(gradient))
        return cut_gradient

    def finish(self, participant: int) -> None:
        """Write the trained copy to disk, unless its last step has diverged."""
        server_copy, steps = self._training.pop(participant)
        steps.finish()
        if not all(map(all_finite, exchanged(server_copy).values())):
            raise DivergedError(
                f"Training diverged: client {participant}'s copy of the server part holds NaN or "
                "infinity."
            )
        file = self._file(participant)
        try:
            save_file(separate(exchanged(server_copy)), file)
        except (OSError, SafetensorError) as error:
            raise cannot_write(file, error) from None

    def drop(self, participant: int) -> None:
        """Drop the participant's copy."""
        self._training.pop(participant, None)
        self._pending.pop(participant, None)
        self._file(participant).unlink(missing_ok=True)

    def interrupt(self) -> None:
        """Do nothing: no participant waits for another."""

    def copy_of(self, participant: int) -> dict[str, Tensor]:
        """Return the trained weights of a participant that has finished, before the round closes.

        Raises
        ------
        RunError
            If they cannot be read again.
        """
        file = self._file(participant)
        try:
            return load_file(file)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch raises the last
            raise cannot_read(file, error) from None

    def choose(self, weights: Mapping[str, Tensor]) -> None:
        """Let `close_round` take these weights, of a robust aggregator, and not the average."""
        self._chosen = weights

    def close_round(self, num_examples: Mapping[int, int]) -> None:
        """Average the accepted copies, in the order of participants, so that bits repeat."""
        total, chosen = sum(num_examples.values()), self._chosen
        self._chosen = {}
        if chosen:
            load_exchanged(self.server_part, chosen)
        elif total:
            current = exchanged(self.server_part)
            average = {
                name: torch.zeros_like(tensor, dtype=torch.float64)
                for name, tensor in current.items()
            }
            for participant in sorted(num_examples):
                weight = num_examples[participant] / total
                for name, tensor in self.copy_of(participant).items():
                    average[name].add_(tensor.to(average[name].device), alpha=weight)
            for name, tensor in current.items():
                if not tensor.is_floating_point():  # 3 may have become 2.9999...
                    average[name].round_()
            load_exchanged(self.server_part, average)  # casts to each tensor's own dtype
        self._training.clear()
        self._pending.clear()
        for file in self.finished_files:
            file.unlink()

    def close(self) -> None:
        """Remove the folder of finished copies."""
        self._finished.remove()

    def _file(self, participant: int) -> Path:
        return self._finished.path / f"{participant}.safetensors"
