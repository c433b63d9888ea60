"""What a run reports while it goes on: a row and a line for each round, and the summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fedsplit.config import Config
from fedsplit.results.progress import Progress
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.strict_json import finite
from fedsplit.results.summary import summarise

ROW_KEYS = (
    "round",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "validation_loss",
    "validation_accuracy",
    "num_participants",
    "failed_clients",
    "num_examples",
    "cut_uplink_bytes",
    "cut_downlink_bytes",
    "evaluate_uplink_bytes",
    "evaluate_downlink_bytes",
    "sync_uplink_bytes",
    "sync_downlink_bytes",
    "simulated_communication_seconds",
    "communication_seconds",
    "train_seconds",
    "evaluate_seconds",
    "round_seconds",
)
"""The keys of a round's row; what a round did not report is None."""


class Recorder:
    """Collects what each round reports.

    Call `start`, then for each round any number of `note` and `progress` and one `end_round`,
    and `finish` at the end.

    Parameters
    ----------
    run_directory : RunDirectory
        Where rows and summary are written.
    config : Config
        The run's configuration.
    log : Callable[[str], None]
        Takes one line for the person who watches.
    clock : Callable[[], float]
        Seconds that never run backwards.

    Attributes
    ----------
    rows : list[dict[str, Any]]
        The rows of the finished rounds, with the keys `ROW_KEYS`.
    """

    def __init__(
        self,
        run_directory: RunDirectory,
        config: Config,
        log: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._run_directory = run_directory
        self._config = config
        self._log = log
        self._clock = clock
        self._facts: dict[str, Any] = {}
        self._initial: dict[str, float | None] = {"test_loss": None, "test_accuracy": None}
        self._current: dict[str, Any] = {}
        self._started = self._round_started = clock()
        self._progress = Progress(log, clock, config.num_server_rounds)

    def start(  # noqa: PLR0913 - one for each entry of the summary
        self,
        *,
        engine: str,
        num_clients: int,
        cut_layer: int | None,
        client_parameters: int,
        server_parameters: int,
        client_trainable_parameters: int,
        server_trainable_parameters: int,
        client_flops_per_sample: int,
        server_flops_per_sample: int,
        client_memory_bytes: int,
        server_memory_bytes: int,
    ) -> None:
        """Take what is known before the first round, and start the clock.

        Parameters
        ----------
        engine : str
            ``flower`` or ``inprocess``.
        num_clients : int
            Clients that can be sampled.
        cut_layer : int | None
            Where the model is cut; None for an unsplit strategy.
        client_parameters, server_parameters : int
            What each side holds.
        client_trainable_parameters, server_trainable_parameters : int
            What of it trains.
        client_flops_per_sample, server_flops_per_sample : int
            What one training step with one example costs each side.
        client_memory_bytes, server_memory_bytes : int
            What training keeps in memory at a client, and at the server for all participants
            (see `fedsplit.results.memory`).
        """
        self._facts = {
            "num_clients": num_clients,
            "engine": engine,
            "cut_layer": cut_layer,
            "client_parameters": client_parameters,
            "server_parameters": server_parameters,
            "client_trainable_parameters": client_trainable_parameters,
            "server_trainable_parameters": server_trainable_parameters,
            "client_flops_per_sample": client_flops_per_sample,
            "server_flops_per_sample": server_flops_per_sample,
            "client_memory_bytes": client_memory_bytes,
            "server_memory_bytes": server_memory_bytes,
        }
        self._started = self._clock()
        self._begin_round()

    def note_initial(self, *, test_loss: float, test_accuracy: float) -> None:
        """Take the test result of the initial weights; the first round starts now."""
        self._initial = {"test_loss": test_loss, "test_accuracy": test_accuracy}
        self._log(f"Before training: test accuracy {test_accuracy:.4f}, test loss {test_loss:.4f}")
        self._begin_round()

    def note(self, **values: object) -> None:
        """Merge values into the current round's row; the last value of a key counts.

        Raises
        ------
        TypeError
            If a key is not one of `ROW_KEYS`.
        """
        if unknown := sorted(set(values) - set(ROW_KEYS)):
            raise TypeError(
                f"A round's row has no {', '.join(unknown)}. Its keys are {', '.join(ROW_KEYS)}."
            )
        self._current.update(values)

    def progress(self, done: int, total: int, *, doing: str = "training") -> None:
        """Tell that so many of the round's clients have replied.

        Logs at most one line in 5 seconds, so that short rounds stay silent.

        Parameters
        ----------
        done, total : int
            Clients.
        doing : str
            What they have done; the estimate starts anew when this changes.
        """
        self._progress.clients_done(done, total, doing)

    def end_round(self) -> dict[str, Any]:
        """Write the round's row, log its line, and start the next round.

        Returns
        -------
        dict[str, Any]
            The row, with None for what was not reported or is not finite.

        Raises
        ------
        RunError
            If the row cannot be written.
        """
        row: dict[str, Any] = dict.fromkeys(ROW_KEYS)
        row |= {"failed_clients": [], "round_seconds": self._clock() - self._round_started}
        row |= self._current
        row["round"] = len(self.rows) + 1
        written = finite(row)
        assert isinstance(written, dict)
        self._run_directory.append_round(written)
        self.rows.append(written)
        self._progress.round_done(row)  # as reported: a loss of nan shows as nan
        self._begin_round()
        return written

    def finish(self) -> dict[str, Any]:
        """Write the summary of the finished rounds and return it.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        summary = finite(
            summarise(
                self.rows,
                self._config,
                facts=self._facts,
                initial=self._initial,
                wall_seconds=self._clock() - self._started,
                run_directory=self._run_directory.path,
            )
        )
        assert isinstance(summary, dict)
        self._run_directory.write_summary(summary)
        return summary

    def _begin_round(self) -> None:
        self._current = {}
        self._round_started = self._clock()
        self._progress.round_begins()
