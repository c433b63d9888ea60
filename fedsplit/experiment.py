"""One run's model and results: initial weights, scores after each round, the final summary."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from fedsplit.config import Config
from fedsplit.costs import costs
from fedsplit.data.view import plot_shards, shard_table
from fedsplit.exchanged_state import exchanged, load_exchanged
from fedsplit.fields import Field
from fedsplit.models.checkpoint import save_model, save_part
from fedsplit.models.split import SplitModel
from fedsplit.models.trainable import merge_adapters
from fedsplit.preparation import Preparation
from fedsplit.results.plots import plot_run
from fedsplit.results.recorder import Recorder
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.sinks import Sinks
from fedsplit.results.table import results_table
from fedsplit.scoring import score_clients, score_model
from fedsplit.split.phases import Purpose

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The results of a run.

    Attributes
    ----------
    rounds : list[dict[str, Any]]
        The objects in rounds.jsonl.
    summary : dict[str, Any]
        The object in summary.json.
    model : SplitModel
        The final weights.
    run_directory : RunDirectory
        Where all of them are saved.
    """

    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    model: SplitModel
    run_directory: RunDirectory


class Experiment:
    """The server's side of one run, apart from the rounds themselves.

    Parameters
    ----------
    config : Config
        The run's configuration.
    prepared : Preparation
        Its model and test images.
    split : bool
        Whether the model is split between clients and server.
    pooled : bool
        If it is not, whether the server trains it, not the clients.
    class_counts : Mapping[int, Sequence[int]]
        Client -> training images of each class.
    engine : str
        What summary.json calls the engine.
    log : Callable[[str], None]
        Logs one line for the user.
    metrics : Sequence[Field]
        What the strategy's two halves report besides the built-in fields.
    """

    def __init__(
        self,
        *,
        config: Config,
        prepared: Preparation,
        split: bool,
        pooled: bool = False,
        class_counts: Mapping[int, Sequence[int]],
        engine: str,
        log: Callable[[str], None],
        metrics: Sequence[Field] = (),
    ) -> None:
        self._config = config
        self._prepared = prepared
        self._log = log
        self._client_part = prepared.held_by_clients(split=split)
        self._own_states: Sequence[Mapping[str, Tensor]] = []
        self._run_directory = RunDirectory.create(config)
        self._sinks = Sinks(config, self._run_directory.path)
        self.recorder = Recorder(self._run_directory, config, log)
        self._show_start(class_counts)
        known = costs(config, prepared, split=split, pooled=pooled, num_clients=len(class_counts))
        self.recorder.start(
            {
                "engine": engine,
                "num_clients": len(class_counts),
                "cut_layer": config.split.cut_layer if split else None,
                **known,
            },
            metrics=metrics,
        )

    def client_buffers(self) -> frozenset[str]:
        """Return the names of the exchanged tensors that are not parameters."""
        parameters = dict(self._client_part.named_parameters(remove_duplicate=False))
        return frozenset(exchanged(self._client_part).keys() - parameters.keys())

    def initial_state(self) -> dict[str, Tensor]:
        """Return the weights that clients train and start from: of the bottom, or of the whole."""
        return exchanged(self._client_part)

    def evaluate(
        self, server_round: int, states: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, float]:
        """Score the clients' part on the test set, and write the round's row.

        Parameters
        ----------
        server_round : int
            0 before the first round.
        states : Sequence[Mapping[str, Tensor]]
            The aggregated weights, named as `initial_state`; or those of each client, where
            clients keep their own, and the scores are the means over the clients.
        """
        if len(states) == 1:
            load_exchanged(self._client_part, states[0])
            results = [score_model(self._prepared, self._config.device)]
        else:
            results = score_clients(self._prepared, self._config, states, self._show_scoring)
        loss = fmean(result.loss for result in results)
        accuracy = fmean(result.accuracy for result in results)
        self._own_states = states if len(states) > 1 else []
        if server_round == 0:
            self.recorder.note_initial(test_loss=loss, test_accuracy=accuracy)
        else:
            self.recorder.note(test_loss=loss, test_accuracy=accuracy)
            self._sinks.send_round(self.recorder.end_round())
        return {"loss": loss, "accuracy": accuracy}

    def show_progress(self, done: int, total: int, purpose: Purpose) -> None:
        """Log the progress of a long round."""
        doing = "training" if purpose is Purpose.TRAIN else "evaluation"
        self.recorder.progress(done, total, doing=doing)

    def finish(self) -> Outcome:
        """Save the model, write the summary, and show the results."""
        directory = self._run_directory
        for client, state in enumerate(self._own_states):
            save_part(state, directory.clients_dir / f"{client}.safetensors")
        if self._own_states:  # one model can hold one client's part
            load_exchanged(self._client_part, self._own_states[0])
        model = SplitModel(*(part.cpu() for part in self._prepared.model))
        merge_adapters(model)
        save_model(
            model.merge(),
            self._prepared.spec,
            directory.model_dir,
            class_names=self._prepared.class_names,
        )
        summary = self.recorder.finish()
        self._sinks.send_summary(summary)
        rows = self.recorder.rows
        for line in results_table(rows, summary).splitlines():
            self._log(line)
        draw_or_warn(directory.path / "rounds.png", lambda path: plot_run(rows, summary, path))
        return Outcome(rows, summary, model, directory)

    def close(self) -> None:
        """Release what a run holds, whether it has finished or failed."""
        self._sinks.close()

    def _show_scoring(self, done: int, total: int) -> None:
        self.recorder.progress(done, total, doing="scoring")

    def _show_start(self, class_counts: Mapping[int, Sequence[int]]) -> None:
        self._log(f"Run directory: {self._run_directory.path}")
        counts = [class_counts[client] for client in sorted(class_counts)]
        names = self._prepared.class_names
        for line in shard_table(counts, names).splitlines():
            self._log(line)
        self._run_directory.write_shards(counts, names)
        shards = self._run_directory.path / "shards.png"
        draw_or_warn(shards, lambda path: plot_shards(counts, names, path))


def draw_or_warn(path: Path, plot: Callable[[Path], None]) -> None:
    """Draw a picture; if that fails, log a warning, because it must not end a run."""
    with warnings.catch_warnings():
        # Names in a script that matplotlib's font lacks appear as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        try:
            plot(path)
        except Exception as error:
            _logger.warning(
                "'%s' cannot be drawn (%s: %s); the run continues without this picture.",
                *(path, type(error).__name__, error),
            )
