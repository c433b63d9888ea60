"""What clients keep between rounds, as the server last received it: for a run's checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message

from fedsplit.flower_internals import record_bytes
from fedsplit.messages import KEPT_BYTES, KEPT_RECORDS, KEPT_ROUND, KEPT_WEIGHTS
from fedsplit.snapshot import Snapshot

Records = Mapping[str, ArrayRecord | ConfigRecord]


class KeptByClients:
    """Copies of what clients keep, which the server never reads: it only gives them back.

    If the run writes checkpoints, a client returns a copy with each training reply. It is sent its
    copy after the run has been interrupted, and after a round to which it did not contribute: then
    what it keeps may be of that round. Without copies it continues from that.

    Parameters
    ----------
    weights_of : Callable[[int], ArrayRecord]
        Returns the weights that a client keeps and is not sent again; none if it keeps none.
    """

    def __init__(
        self, weights_of: Callable[[int], ArrayRecord] = lambda client: ArrayRecord()
    ) -> None:
        self._weights_of = weights_of
        self._copies: dict[int, dict[str, ConfigRecord]] = {}
        self._rounds: dict[int, int] = {}  # of the copies, and of what clients keep
        self._lost: set[int] = set()
        self._taken: dict[int, tuple[dict[str, ConfigRecord], int | None]] = {}
        self._uplink_bytes = 0
        self.resent_bytes = 0

    def begin_round(self) -> None:
        """Begin to count a round's bytes."""
        self._uplink_bytes = 0
        self.resent_bytes = 0

    @property
    def cost(self) -> dict[str, object]:
        """The row's entries for a round: bytes of copies, and of what was given back."""
        return {"kept_uplink_bytes": self._uplink_bytes, "resent_bytes": self.resent_bytes}

    def take(self, replies: Mapping[int, Message]) -> None:
        """Take the copies out of the replies of clients, before these are checked.

        A copy that is not bytes is dropped. A reply without a copy leaves the one before as it is.
        """
        self._taken = {}
        for client, reply in replies.items():
            found: dict[str, ConfigRecord] = {}
            for name in KEPT_RECORDS:
                record = reply.content.pop(name, None)
                if isinstance(record, ConfigRecord) and isinstance(record.get(KEPT_BYTES), bytes):
                    found[name] = ConfigRecord({KEPT_BYTES: record[KEPT_BYTES]})
            self._uplink_bytes += sum(map(record_bytes, found.values()))
            self._taken[client] = found, _round_in(reply.content.pop(KEPT_ROUND, None))

    def accept(self, good: Iterable[int], failed: Iterable[int]) -> None:
        """Keep the copies of the clients whose replies count.

        What the others keep is of another round, or nobody knows: they are sent their copies.
        """
        for client in good:
            found, made = self._taken[client]
            if made is not None:
                self._rounds[client] = made
                self._copies.pop(client, None)  # of an earlier round
            if found:
                self._copies[client] = found
        self._lost.difference_update(good)
        self._lost.update(failed)

    def expected_round(self, client: int) -> int:
        """Return the round of what a client keeps: its last that counted; 0 = none."""
        return self._rounds.get(client, 0)

    def give_back(self, client: int) -> Records:
        """Return the records that give a client back what it has lost, or has of another round."""
        if client not in self._lost:
            return {}
        records: dict[str, ArrayRecord | ConfigRecord] = {**self._copies.get(client, {})}
        if weights := self._weights_of(client):
            records[KEPT_WEIGHTS] = weights
        self.resent_bytes += sum(map(record_bytes, records.values()))
        if made := self._rounds.get(client, 0):
            records[KEPT_ROUND] = ConfigRecord({KEPT_ROUND: made})
        return records

    def state_dict(self) -> Snapshot:
        """Return the copies, and their rounds."""
        copies: Snapshot = {
            str(client): {
                name: torch.frombuffer(_bytes_of(record), dtype=torch.uint8)
                for name, record in records.items()
            }
            for client, records in self._copies.items()
        }
        rounds: Snapshot = {str(client): made for client, made in self._rounds.items()}
        return {"copies": copies, "rounds": rounds}

    def load_state_dict(self, state: Snapshot, clients: Iterable[int]) -> None:
        """Continue from what `state_dict` returned; all these clients have lost what they kept."""
        self._copies = {
            int(client): {
                name: ConfigRecord({KEPT_BYTES: data.numpy().tobytes()})
                for name, data in records.items()
            }
            for client, records in state["copies"].items()
        }
        self._rounds = {int(client): made for client, made in state["rounds"].items()}
        self._lost = set(clients)


def _round_in(record: object) -> int | None:
    made = record.get(KEPT_ROUND) if isinstance(record, ConfigRecord) else None
    return made if isinstance(made, int) and made > 0 else None


def _bytes_of(record: ConfigRecord) -> bytearray:
    data = record[KEPT_BYTES]
    assert isinstance(data, bytes)
    return bytearray(data)  # torch wants memory that it could write to
