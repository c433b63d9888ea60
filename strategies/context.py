"""What a strategy works with, handed to it by the ServerApp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedsplit.config import Config
from fedsplit.messages import Instructions
from fedsplit.split.local import PooledTraining
from fedsplit.split.server import Progress, SplitServer, silent
from strategies.clients import Clients

Note = Callable[..., None]
NoteClients = Callable[[str, Mapping[int, Mapping[str, float]]], None]


def _note_nothing(phase: str, results: Mapping[int, Mapping[str, float]]) -> None:
    pass


@dataclass(frozen=True)
class RunContext:
    """What a strategy works with.

    Attributes
    ----------
    config : Config
        The run's configuration.
    clients : Clients
        All clients that can be sampled.
    instructions : Instructions
        What every message tells its client. A round adds its number and the client's token.
    note : Note
        Notes values of the round, as keyword arguments (see `fedsplit.results.recorder`).
    note_clients : NoteClients
        Notes the round's results of single clients.
    server : SplitServer | None
        Holds the server part, if the model is split.
    pool : PooledTraining | None
        Training on the pooled images, for a strategy that asks for it.
    buffers : frozenset[str]
        Names of the client part's buffers, such as running statistics.
    progress : Progress
        Shows how many participants have finished.
    """

    config: Config
    clients: Clients
    instructions: Instructions
    note: Note
    note_clients: NoteClients = _note_nothing
    server: SplitServer | None = None
    pool: PooledTraining | None = None
    buffers: frozenset[str] = frozenset()
    progress: Progress = silent
