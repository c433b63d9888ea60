"""What a run records while it goes on: a row and a log line for each round, and the summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsplit.config import Config
from fedsplit.fields import ROW_KEYS, START_KEYS, Field, Metric, declare
from fedsplit.results.environment import continued_in
from fedsplit.results.progress import Progress
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.saved import Saved
from fedsplit.results.strict_json import finite
from fedsplit.results.summary import NOT_SCORED, summarise
from fedsplit.run_log import warn


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
        Takes one line of the run's log.
    clock : Callable[[], float]
        Seconds that never run backwards.

    Attributes
    ----------
    rows : list[dict[str, Any]]
        The rows of the finished rounds. Their keys are `fedsplit.fields.ROW_KEYS` and those of
        the declared metrics.
    metrics : tuple[Metric, ...]
        The declared metrics.
    stopped : bool
        Whether somebody has ended the run before its last round.
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
        self.metrics: tuple[Metric, ...] = ()
        self.stopped = False
        self._run_directory = run_directory
        self._config = config
        self._log = log
        self._clock = clock
        self._facts: dict[str, Any] = {}
        self._initial: dict[str, float | None] = {"test_loss": None, "test_accuracy": None}
        self._current: dict[str, Any] = {}
        self._of_clients: dict[str, Mapping[int, Mapping[str, float]]] = {}
        self._started = self._round_started = clock()
        self._progress = Progress(log, clock, config.num_server_rounds)

    def start(self, facts: Mapping[str, object], *, metrics: Sequence[Field] = ()) -> None:
        """Take what is known before the first round, and start the clock.

        Parameters
        ----------
        facts : Mapping[str, object]
            What the run is and what it costs each side, by `fedsplit.fields.START_KEYS`.
            ``engine`` is ``flower`` or ``inprocess``, ``cut_layer`` None for an unsplit strategy;
            FLOPs are those of one training step with one example, and memory at the server is for
            all participants (see `fedsplit.results.memory`).
        metrics : Sequence[Field]
            What the strategy, its client rule and its update rule declare beside the built-in
            fields. `note` then takes their keys too.

        Raises
        ------
        TypeError
            If the keys of `facts` are not exactly `START_KEYS`.
        ConfigError
            If a metric is invalid (see `fedsplit.fields.declare`).
        """
        if set(facts) != set(START_KEYS):
            missing = sorted(set(START_KEYS) - set(facts))
            unknown = sorted(set(facts) - set(START_KEYS))
            raise TypeError(
                f"A recorder starts with the keys {', '.join(START_KEYS)}. Missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
            )
        self._facts = {key: facts[key] for key in START_KEYS}
        self.metrics = declare(metrics)
        self._started = self._clock()
        self._begin_round()

    def note_initial(self, *, test_loss: float, test_accuracy: float) -> None:
        """Take the test result of the initial weights. The first round starts now."""
        self._initial = {"test_loss": test_loss, "test_accuracy": test_accuracy}
        self._log(f"Before training: test accuracy {test_accuracy:.4f}, test loss {test_loss:.4f}")
        self._write_start(self._clock() - self._started)
        self._begin_round()

    def note(self, **values: object) -> None:
        """Merge values into the current round's row. The last value of a key counts.

        Raises
        ------
        TypeError
            If a key is neither one of `fedsplit.fields.ROW_KEYS` nor that of a declared metric.
        """
        keys = self._row_keys()
        if unknown := sorted(set(values) - set(keys)):
            raise TypeError(
                f"A round's row has no {', '.join(unknown)}. Its keys are {', '.join(keys)}. "
                "Declare a value of your own as a fedsplit.fields.Metric of the strategy or rule."
            )
        self._current.update(values)

    def note_clients(self, phase: str, results: Mapping[int, Mapping[str, float]]) -> None:
        """Take what single clients have measured in the current round, for clients.jsonl.

        Parameters
        ----------
        phase : str
            ``train`` or ``validation``.
        results : Mapping[int, Mapping[str, float]]
            Partition id -> ``examples``, ``loss`` and ``accuracy``, in the order of the ids.
        """
        self._of_clients[phase] = results

    def progress(self, done: int, total: int, *, doing: str = "training") -> None:
        """Take how many of the round's clients have replied.

        Logs at most one line in 5 seconds, so that short rounds stay silent.

        Parameters
        ----------
        done, total : int
            Numbers of clients.
        doing : str
            What they have done. The estimate of the time left restarts when this changes.
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
        row: dict[str, Any] = dict.fromkeys(self._row_keys())
        row |= {"failed_clients": [], "round_seconds": self._clock() - self._round_started}
        row |= self._current
        row["round"] = len(self.rows) + 1
        written = finite(row)
        assert isinstance(written, dict)
        self._write_clients(row["round"])
        self._run_directory.append_round(written)
        self.rows.append(written)
        split = self._facts["cut_layer"] is not None
        self._progress.round_done(row, split=split)  # as reported: a loss of nan shows as nan
        self._begin_round()
        return written

    def finish(
        self,
        final: Mapping[str, Any] = NOT_SCORED,
        *,
        before: Callable[[dict[str, Any]], object] = lambda summary: None,
    ) -> dict[str, Any]:
        """Write the summary of the finished rounds and return it.

        Parameters
        ----------
        final : Mapping[str, Any]
            What it says about the final model (see `fedsplit.results.summary.summarise`).
        before : Callable[[dict[str, Any]], object]
            Called with the summary before it is written: its file says that the run has ended.

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
                final=final,
                metrics=self.metrics,
                stopped=self.stopped,
            )
        )
        assert isinstance(summary, dict)
        before(summary)
        self._run_directory.write_summary(summary)
        return summary

    def state_dict(self) -> dict[str, Any]:
        """Return what a recorder needs to continue this run, as plain JSON values.

        Call it between rounds: what has been noted of a round that has not ended is not in it.
        """
        return Saved(
            rows=self.rows,
            initial=self._initial,
            facts=self._facts,
            elapsed_seconds=self._clock() - self._started,
            metrics=self.metrics,
        ).to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the recording that `state_dict` has saved, in this run directory.

        The next round gets the next number, the summary covers all rounds, and the time that the
        saved run took counts as this run's. rounds.jsonl gets the saved rows, and nothing else.

        Parameters
        ----------
        state : Mapping[str, Any]
            From `state_dict`. It replaces what `start` was given, which must declare the same
            metrics.

        Raises
        ------
        ConfigError
            If the state is not one that `state_dict` returns, or holds other metrics than those
            that `start` was given. Nothing is changed then.
        RunError
            If rounds.jsonl cannot be written.
        """
        saved = Saved.from_json(state)
        if self._facts:
            saved.check_metrics(self.metrics)
        self._run_directory.write_rounds(saved.rows)
        self._run_directory.keep_client_results(len(saved.rows))
        self.rows, self.metrics = [dict(row) for row in saved.rows], saved.metrics
        was, self._facts = saved.facts, continued_in(saved.facts, self._facts, len(self.rows))
        if was.get("code_sha256") != self._facts.get("code_sha256"):
            warn(
                "Your own code is not that with which this run began: its rounds from here on are "
                "those of other code. The summary says so."
            )
        self._initial = dict(saved.initial)
        self._started = self._clock() - saved.elapsed_seconds
        if self._facts:  # an unfinished run, too, says where and in which engine it continued
            rounds = sum(row["round_seconds"] for row in self.rows)
            self._write_start(max(0.0, saved.elapsed_seconds - rounds))
        self._progress.resume([row["round_seconds"] for row in self.rows])
        self._begin_round()

    def _write_start(self, seconds: float) -> None:
        """Write what was known before the first round, which began after so many seconds."""
        state = {**self.state_dict(), "rows": [], "elapsed_seconds": seconds}
        self._run_directory.write_start(state)

    def _write_clients(self, number: int) -> None:
        """Write the clients' results before the row: rounds.jsonl says which rounds have ended."""
        line: dict[str, Any] = {"round": number}
        for phase, results in self._of_clients.items():
            if results:
                keys = next(iter(results.values()))
                columns = {key: [found[key] for found in results.values()] for key in keys}
                line[phase] = {"clients": list(results), **columns}
        if len(line) > 1:
            self._run_directory.append_client_results(line)

    def _row_keys(self) -> tuple[str, ...]:
        return (*ROW_KEYS, *(metric.key for metric in self.metrics))

    def _begin_round(self) -> None:
        self._current, self._of_clients = {}, {}
        self._round_started = self._clock()
        self._progress.round_begins()
