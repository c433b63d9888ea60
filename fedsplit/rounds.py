"""The rounds of a run: Flower's loop, a score after each round, and a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from fedsplit.arrays import to_record, to_state
from fedsplit.config import Config
from fedsplit.experiment import Experiment, Outcome
from fedsplit.models.split import SplitModel
from fedsplit.observers import StopRun
from fedsplit.results.best import is_over
from fedsplit.resume import checkpoint_of
from fedsplit.run_log import say
from fedsplit.snapshot import Snapshot
from strategies.base import FederatedStrategy
from strategies.continued import Continued


class _StopEarlyError(Exception):
    """Leaves Flower's loop over the rounds."""


class Rounds:
    """All rounds of a run, from its beginning or from a checkpoint.

    Parameters
    ----------
    config : Config
        The run's configuration.
    strategy : FederatedStrategy
        What happens in a round.
    experiment : Experiment
        Scores, and keeps the results.
    inputs : Snapshot
        What shows that a run which continues from a checkpoint reads the same.
    saved : Snapshot | None
        The state from which the run continues; None = it begins.
    """

    def __init__(
        self,
        config: Config,
        strategy: FederatedStrategy,
        experiment: Experiment,
        inputs: Snapshot,
        saved: Snapshot | None,
    ) -> None:
        self._config = config
        self._strategy = strategy
        self._experiment = experiment
        self._inputs = inputs
        self._done = 0
        self._arrays = to_record(experiment.initial_state())
        if saved is not None:
            self._load(saved)
        if config.resume:
            experiment.directory.go_on(config, self._done)
            experiment.directory.write_process(experiment.process)

    def run(self, grid: Grid) -> Outcome:
        """Let Flower run the rounds that are left, and write the results.

        Raises
        ------
        FedSplitError
            If the run cannot be finished.
        """
        continued = Continued(self._strategy, self._done) if self._done else self._strategy
        with suppress(_StopEarlyError):
            self._check_patience(self._done)
            continued.start(
                grid=grid,
                initial_arrays=self._arrays,
                num_rounds=self._config.num_server_rounds - self._done,
                timeout=self._config.round_timeout,
                evaluate_fn=self._end_round,
            )
        self._experiment.score_classes()  # before the model gets the best round's weights
        return self._experiment.finish(self._save_models())

    def _end_round(self, rounds: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Score the model before the first round and after each, and write the checkpoint."""
        if rounds == 0 and self._done:
            return None  # it was scored before the run was interrupted
        server_round = self._done + rounds
        scores = self._experiment.evaluate(server_round, self._to_score(arrays))
        every = self._config.checkpoint_every
        raised = self._tell() if rounds else None
        is_last = raised is not None or self._is_last(server_round)
        if rounds and every and (server_round % every == 0 or is_last):
            self._write(server_round, arrays)
        if raised is not None:
            self._stop(server_round, raised)
        self._check_patience(server_round)
        return MetricRecord({**scores})

    def _tell(self) -> Exception | None:
        """Show the observers the row of the round; return what one of them has raised."""
        return self._experiment.observers.tell(self._experiment.recorder.rows[-1])

    def _stop(self, server_round: int, raised: Exception) -> None:
        """End the rounds because of what a callback has raised."""
        if not isinstance(raised, StopRun):
            raise raised
        why = str(raised) or "StopRun"
        say(f"Stopped after round {server_round} by a callback: {why}")
        self._experiment.recorder.stopped = server_round < self._config.num_server_rounds
        raise _StopEarlyError

    def _check_patience(self, server_round: int) -> None:
        """End the rounds, if the score has not improved for too long."""
        if self._is_over():
            patience, monitor = self._config.patience, self._config.monitor
            say(
                f"Stopped after round {server_round}: {monitor} has not improved for {patience} "
                "rounds (patience)."
            )
            raise _StopEarlyError

    def _is_over(self) -> bool:
        rows = self._experiment.recorder.rows
        return is_over(rows, self._config.monitor, self._config.patience)

    def _is_last(self, server_round: int) -> bool:
        return server_round == self._config.num_server_rounds or self._is_over()

    def _to_score(self, arrays: ArrayRecord) -> list[dict[str, Tensor]]:
        return _states_of(self._strategy.to_score(arrays))

    def _write(self, server_round: int, arrays: ArrayRecord) -> None:
        experiment = self._experiment
        state = {
            "round": server_round,
            "arrays": dict(to_state(arrays)),
            "strategy": self._strategy.state_dict(),
            "recorder": experiment.recorder.state_dict(),
        }
        content = checkpoint_of(state, self._config, self._inputs)
        experiment.directory.checkpoints.write(
            server_round, content, experiment.recorder.rows, self._config.monitor
        )

    def _save_models(self) -> SplitModel:
        """Save the weights after the last round and after the best one; return the last."""
        experiment = self._experiment
        directory, rows = experiment.directory, experiment.recorder.rows
        best = directory.checkpoints.best_round(rows, self._config.monitor)
        last_is_best = best in (None, len(rows))
        model = experiment.model(copied=not last_is_best)
        experiment.save(model, directory.model_dir, directory.clients_dir)
        if best is not None:
            if not last_is_best:
                self._load_weights(directory.checkpoints.load(best))
            best_model = model if last_is_best else experiment.model()
            experiment.save(best_model, directory.best_dir, directory.best_clients_dir)
        return model

    def _load(self, saved: Snapshot) -> None:
        self._load_weights(saved)
        self._experiment.recorder.load_state_dict(saved["recorder"])
        self._done = saved["round"]

    def _load_weights(self, saved: Snapshot) -> None:
        self._strategy.load_state_dict(saved["strategy"])
        self._arrays = to_record(saved["arrays"])
        self._experiment.load(self._to_score(self._arrays))


def _states_of(records: Sequence[ArrayRecord]) -> list[dict[str, Tensor]]:
    """Return each record's weights; the same record gives the same object, which is scored once."""
    states = {id(record): to_state(record) for record in records}
    return [states[id(record)] for record in records]
