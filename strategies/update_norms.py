"""How far the clients' weights move in a round, so that one reply cannot ruin an average.

A reply whose weights are finite and absurd outweighs all others. Honest clients' updates are of one
size: an update that is far larger than those of the run is refused, and its sender named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from flwr.app import ArrayRecord, Message

from fedsplit.arrays import to_state
from fedsplit.messages import METRICS, NUM_EXAMPLES
from fedsplit.snapshot import Snapshot
from strategies.replies import weights_of

_SMALLEST = 1e-4
"""Updates are taken for at least this share of the weights' norm: a learning rate may be 0."""
_ENOUGH = 3
"""Of fewer updates, nobody can tell which one is out of line."""


class _Update(NamedTuple):
    norm: float
    num_examples: int


class UpdateNorms:
    """Refuses replies whose update is far larger than those of the run.

    The norm of a client's update is compared with the median over the round's participants; in a
    round with fewer than three, with the median over each participant's last update; and where the
    run has not shown three, with the largest of the rounds before and of the others in this one:
    two of them can move ten times as far at once, such as where a plateau ends. In the first round
    of one or two clients there is nothing to compare with, and never for a run's only client. A
    client with more examples than the median takes more steps, and may move as much farther.

    Parameters
    ----------
    factor : float
        How many times as large an update may be; 0 = as large as it likes.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._last: dict[int, _Update] = {}

    def faults(
        self, replies: Mapping[int, Message], began_with: Callable[[int], ArrayRecord]
    ) -> dict[int, str]:
        """Return why replies are refused, and take notice of the others.

        Parameters
        ----------
        replies : Mapping[int, Message]
            Partition id -> a reply of training that is well-formed.
        began_with : Callable[[int], ArrayRecord]
            Returns the weights from which a client has begun.
        """
        if not self._factor:
            return {}
        found = {k: _update(reply, began_with(k)) for k, reply in replies.items()}
        shown = {client: self._shown(client, found) for client in found}  # before any is noted
        faults = {}
        for client, update in found.items():
            limit, reach = self._limit(shown[client], update, began_with(client))
            if update.norm > limit:
                faults[client] = (
                    f"its weights have moved by {update.norm:.3g}, where {reach}: more than "
                    f"aggregation.update-factor = {self._factor:g} times as far; lower "
                    "learning-rate, if this client is honest"
                )
            else:
                self._last[client] = update
        return faults

    def _limit(
        self, shown: _Update | None, update: _Update, before: ArrayRecord
    ) -> tuple[float, str]:
        """Return how far a client's weights may move, and what that follows from."""
        if shown is None:  # adam from random weights may move them by many times their norm
            return math.inf, ""
        norm = max(shown.norm, _SMALLEST * _norm(before))
        more = max(1.0, update.num_examples / max(shown.num_examples, 1))
        return self._factor * norm * more, f"those of the run move by {norm:.3g}"

    def _shown(self, client: int, found: Mapping[int, _Update]) -> _Update | None:
        """Return what the run's updates are like; None if there is nothing to compare with."""
        known = found if len(found) >= _ENOUGH else {**self._last, **found}
        if len(known) < _ENOUGH:
            if not self._last or known.keys() == {client}:
                return None
            return max([*self._last.values(), *(u for k, u in found.items() if k != client)])
        middle = (len(known) - 1) // 2
        norms = sorted(update.norm for update in known.values())
        counts = sorted(update.num_examples for update in known.values())
        return _Update(norms[middle], counts[middle])

    def state_dict(self) -> Snapshot:
        """Return what outlives a round."""
        return {str(client): list(update) for client, update in self._last.items()}

    def load_state_dict(self, state: Snapshot) -> None:
        """Continue from what `state_dict` returned."""
        self._last = {
            int(client): _Update(float(norm), int(count)) for client, (norm, count) in state.items()
        }


def _update(reply: Message, before: ArrayRecord) -> _Update:
    count = int(str(reply.content.metric_records[METRICS][NUM_EXAMPLES]))
    return _Update(_norm(weights_of(reply), before), count)


def _norm(weights: ArrayRecord, before: ArrayRecord | None = None) -> float:
    """Return the norm of weights, or that of their distance from others; integers do not count."""
    state, other = to_state(weights), None if before is None else to_state(before)
    norms = []
    for name, tensor in state.items():
        if tensor.is_floating_point():
            # In double precision: the square of 1e30 is too large for single.
            moved = tensor.double() if other is None else tensor.double() - other[name].double()
            norms.append(float(torch.linalg.vector_norm(moved)))
    return math.hypot(*norms)
