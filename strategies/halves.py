"""Which halves of the model an aggregator combines.

It combines what clients train. A robust one also combines the server copies, if each participant
trains one: a hostile client changes both halves, and protection of one of them would be none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsplit.arrays import to_compute, to_record, to_state, to_tensor
from fedsplit.exchanged_state import exchanged
from fedsplit.messages import ARRAYS, METRICS
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.rules import UpdateRule
from strategies.answers import Answered
from strategies.combination import combine_contributions
from strategies.replies import weights_of, without
from strategies.robust import is_robust, stays_among, tolerated

_SERVER = "server part: "
"""Before the names of a server copy's weights: the two halves may use the same names."""


class Halves:
    """Combines a round's contributions, of the halves that the aggregator is for.

    Parameters
    ----------
    aggregator : Strategy
        Any of Flower's kind.
    buffers : Collection[str]
        Names of the client part's buffers.
    rule : UpdateRule | None
        Holds the server part, if the model is split.
    """

    def __init__(
        self, aggregator: Strategy, buffers: Collection[str], rule: UpdateRule | None
    ) -> None:
        self._aggregator = aggregator
        self._buffers = buffers
        self._robust = is_robust(aggregator)
        self._rule = rule
        self._copies = rule if isinstance(rule, PerParticipantCopies) and self._robust else None

    def warnings(self, participants: int) -> list[str]:
        """Return what to say of a robust aggregator that does not protect what one expects.

        Parameters
        ----------
        participants : int
            In a round.
        """
        if not self._robust:
            return []
        name, found = type(self._aggregator).__name__, []
        if self._rule is not None and self._copies is None:
            found.append(
                f"The aggregator {name} protects only what clients train: the update rule "
                f"{type(self._rule).__name__} trains one server part with all participants, and "
                "what a hostile one does to it stays. With strategy = 'sflv1' or 'full' the whole "
                "model is protected."
            )
        if not tolerated(self._aggregator, participants):
            found.append(
                f"The aggregator {name} resists no hostile client with these aggregation.options "
                f"and {participants} participants in a round. More participants are needed, or "
                "options that expect hostile ones (docs/algorithms.md)."
            )
        return found

    def parameters(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what goes through the aggregator, given the weights that clients are sent."""
        both = ArrayRecord({**arrays, **self._server_part()})
        return to_compute(without(both, self._averaged(both)))

    def combine(
        self, server_round: int, answered: Answered, sent: ArrayRecord
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Return the clients' part for the next round; the update rule is given the server's.

        Raises
        ------
        RunError
            See `combine_contributions`.
        """
        for client, reply in answered.good.items():
            reply.content[ARRAYS] = ArrayRecord({**weights_of(reply), **self._copy_of(client)})
        both = ArrayRecord({**sent, **self._server_part()})
        arrays, metrics = combine_contributions(
            self._aggregator, server_round, answered, sent=both, buffers=self._averaged(both)
        )
        self._choose(arrays)
        return ArrayRecord({name: arrays[name] for name in sent}), metrics

    def combine_copies(self, server_round: int, answered: Answered) -> None:
        """Combine the server copies alone, where each client keeps its own part."""
        if self._copies is None:
            return
        kept = {k: (r.content[ARRAYS], r.content[METRICS]) for k, r in answered.good.items()}
        for reply in answered.good.values():
            reply.content[ARRAYS] = ArrayRecord()
        self.combine(server_round, answered, ArrayRecord())
        for client, reply in answered.good.items():
            reply.content[ARRAYS], reply.content[METRICS] = kept[client]

    def _averaged(self, arrays: Mapping[str, Array]) -> frozenset[str]:
        """Return the names of what is averaged by n_k, whatever the aggregator.

        Moments, momentum and noise could push a running variance below 0. A robust rule cannot: it
        stays among what it is given, and averages would let one client ruin the statistics.
        """
        buffers = {*self._buffers, *self._server_buffers()}
        if stays_among(self._aggregator):
            buffers = {b for b in buffers if b in arrays and not _is_floating(arrays[b])}
        return frozenset(buffers)

    def _server_buffers(self) -> list[str]:
        if self._copies is None:
            return []
        return [_SERVER + name for name, _ in self._copies.server_part.named_buffers()]

    def _server_part(self) -> Mapping[str, Array]:
        return {} if self._copies is None else _named(exchanged(self._copies.server_part))

    def _copy_of(self, client: int) -> Mapping[str, Array]:
        if self._copies is None:
            return {}
        copied = self._copies.copy_of(client)  # a file has its own order
        return _named({name: copied[name] for name in exchanged(self._copies.server_part)})

    def _choose(self, arrays: ArrayRecord) -> None:
        if self._copies is not None:
            of_server = {n: a for n, a in arrays.items() if n.startswith(_SERVER)}
            chosen = to_state(ArrayRecord(of_server))
            self._copies.choose({n.removeprefix(_SERVER): t for n, t in chosen.items()})


def _named(state: Mapping[str, Tensor]) -> ArrayRecord:
    return to_record({_SERVER + name: tensor for name, tensor in state.items()})


def _is_floating(array: Array) -> bool:
    return to_tensor(array).is_floating_point()
