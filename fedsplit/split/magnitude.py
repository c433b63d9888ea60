"""How large what clients send is in a run, so that one batch cannot ruin the server part.

A batch whose values are finite and absurd leaves the running variance of a batch norm infinite, or
a server part without norms at chance for good. Honest clients' data are of one size: a batch that
is far larger than all that the run has shown so far is refused, and its sender named.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fedsplit.boundary import State, by_name
from fedsplit.channel.frame import Frame
from fedsplit.snapshot import Snapshot
from fedsplit.split.checks import refused
from fedsplit.split.payload import Content

_ENOUGH = 3
"""Of fewer, one hostile participant could be the median."""


def magnitudes(state: State) -> dict[str, float]:
    """Return the largest absolute value of each floating-point tensor of a state."""
    found = {}
    for name, tensor in by_name(state).items():
        if tensor.is_floating_point() and tensor.numel():
            found[name] = _largest(tensor)
    return found


class Magnitudes:
    """Refuses batches that are far larger than what the run has shown so far.

    A participant is compared with the others: with the median of the magnitudes of their last
    batches, and at least with the magnitude of the initial weights. So the one that grows moves
    nothing, and all of them can grow together.

    Activations of an honest run can grow to a hundred times their initial size, if slowly: by a
    factor of 1 to 4 from batch to batch. So while fewer than three others have sent anything, the
    largest of theirs counts, and the participant's own last batch, up to `factor` times that. A
    hostile one can then reach the square of `factor`, in two batches. The only client of a run is
    compared with itself.

    Parameters
    ----------
    initial : Mapping[str, float]
        The magnitudes of smashed data with the initial weights, by tensor.
    factor : float
        How many times as large a batch may be; 0 = as large as it likes.
    """

    key: ClassVar[str] = "channel.activation-factor"
    smallest: ClassVar[float] = 1.0
    """Magnitudes below are taken for this one, which no layer minds: a bottom may begin with zeros,
    and be larger by any factor after its first step."""

    def __init__(self, initial: Mapping[str, float], factor: float) -> None:
        self._initial = {name: max(value, self.smallest) for name, value in initial.items()}
        self._factor = factor
        self._last: dict[str, dict[int, float]] = {name: {} for name in initial}
        self._alone = False
        self._lock = threading.Lock()

    def shown(self, name: str, participant: int) -> float:
        """Return the magnitude of a tensor with which a participant's is compared."""
        initial, last = self._initial[name], self._last[name]
        own = last.get(participant, 0.0)
        if self._alone:
            return max(initial, own)
        others = sorted(value for other, value in last.items() if other != participant)
        if len(others) >= _ENOUGH:
            return max(initial, others[(len(others) - 1) // 2])
        largest = max(initial, *others, 0.0)
        return max(largest, min(own, self._factor * largest))

    def expect(self, num_clients: int) -> None:
        """Take notice of the number of the run's clients."""
        self._alone = num_clients == 1

    def weigh(self, most: float) -> None:
        """Take notice of the largest factor of a class in the loss."""

    def check(self, frame: Frame, participant: int, content: Content) -> None:
        """Take notice of what a frame holds.

        Raises
        ------
        ChannelError
            If it is too large.
        """
        if not self._factor:
            return
        found = self._measure(content)
        with self._lock:
            for name, value in found.items():
                shown = self.shown(name, participant)
                if value > self._factor * shown:
                    raise refused(
                        frame,
                        f"of client {participant} has values up to {value:.3g} in '{name}', where "
                        f"those of the run reach {shown:.3g} so far: more than "
                        f"{self.key} = {self._factor:g} times as large; if this client is honest, "
                        "lower learning-rate, or raise that factor",
                    )
            for name, value in found.items():
                self._note(self._last[name], participant, value)

    def _measure(self, content: Content) -> dict[str, float]:
        return magnitudes(content.state)

    def _note(self, last: dict[int, float], participant: int, value: float) -> None:
        last[participant] = value

    def state_dict(self) -> Snapshot:
        """Return what outlives a round."""
        return {
            name: {str(participant): value for participant, value in last.items()}
            for name, last in self._last.items()
        }

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        self._last = {
            name: {int(participant): float(value) for participant, value in last.items()}
            for name, last in state.items()
        }


class GradientMagnitudes(Magnitudes):
    """Refuses gradients of the trunk's output that are far larger than those of the run so far.

    Gradients are those of one example's loss: that of a mean over B is 1/B as large. A client that
    has learned its images has small ones, until it meets another image. So its largest counts, and
    not its last.

    Parameters
    ----------
    initial : Mapping[str, float]
        The magnitudes with the initial weights, by tensor.
    factor : float
        How many times as large they may be; 0 = as large as they like.
    """

    key = "channel.output-gradient-factor"
    smallest = 0.1  # a head may begin with zeros

    def weigh(self, most: float) -> None:
        """Let gradients be as many times as large."""
        self._initial = {name: value * max(1.0, most) for name, value in self._initial.items()}

    def _measure(self, content: Content) -> dict[str, float]:
        return {n: value * content.batch_size for n, value in magnitudes(content.state).items()}

    def _note(self, last: dict[int, float], participant: int, value: float) -> None:
        last[participant] = max(value, last.get(participant, 0.0))


def _largest(tensor: Tensor) -> float:
    lowest, highest = torch.aminmax(tensor.detach())
    return torch.maximum(-lowest, highest).item()  # once: a GPU is waited for
