"""One run's model and results: initial weights, scores after each round, the final summary."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedsplit.algorithms import strategy_class
from fedsplit.config import Config
from fedsplit.costs import costs
from fedsplit.data.catalog import load_images
from fedsplit.data.view import plot_shards, shard_table
from fedsplit.exchanged_state import exchanged, load_exchanged, tensors_digest
from fedsplit.models.checkpoint import save_model, save_part
from fedsplit.models.split import SplitModel
from fedsplit.models.trainable import merge_adapters, weights_digest
from fedsplit.own_code import code_digest
from fedsplit.preparation import Preparation
from fedsplit.results.classes import class_scores
from fedsplit.results.environment import environment
from fedsplit.results.files import replace_folder, replace_text
from fedsplit.results.last_process import LastProcess
from fedsplit.results.model_card import model_card
from fedsplit.results.plots import draw_or_warn, plot_run
from fedsplit.results.recorder import Recorder
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.sinks import Sinks
from fedsplit.results.table import faults_of, results_table
from fedsplit.run_log import note, say, warn
from fedsplit.scoring import Scored, round_scores, score_clients, score_model
from fedsplit.split.phases import Purpose
from strategies.clients import Clients


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
    clients : Clients
        Its clients, and how many images of which class they have.
    process : LastProcess
        What only this process knows of the run.
    rounds_done : int
        The rounds after which the run continues (see `Config.resume`).

    Attributes
    ----------
    process : LastProcess
        As given.
    directory : RunDirectory
        The run directory. One that is continued is not changed before its state is loaded.
    recorder : Recorder
        The rows and the summary.
    observers : Observers
        What watches the run.
    """

    def __init__(
        self,
        *,
        config: Config,
        prepared: Preparation,
        clients: Clients,
        process: LastProcess,
        rounds_done: int = 0,
    ) -> None:
        self._strategy = strategy_class(config.strategy)
        self._split = self._strategy.update_rule is not None
        self._config = config
        self._prepared = prepared
        self.observers = prepared.observers
        self._counts = [of_client for _, of_client in sorted(clients.class_counts.items())]
        self._client_part = prepared.held_by_clients(split=self._split)
        self._confusion: Tensor | None = None
        self._own_states: Sequence[Mapping[str, Tensor]] = []
        self.process = process
        reopened = RunDirectory.reopen(config, rounds_done) if config.resume else None
        self.directory = reopened or RunDirectory.create(config)
        try:
            if reopened is None:
                self.directory.write_process(self.process)
            self._sinks = Sinks(config, self.directory.path, rounds_done)
            self.recorder = Recorder(self.directory, config, say)
            self._begin(clients)
        except BaseException:
            self.directory.close()
            raise

    def _begin(self, clients: Clients) -> None:
        """Show and record what is known before the first round."""
        config, split = self._config, self._split
        sizes = {
            "num_train_examples": sum(map(sum, self._counts)),
            "num_validation_examples": clients.num_validation,
            "num_test_examples": len(self._prepared.test),
        }
        self._show_start()
        train, validation, test = sizes.values()
        say(f"Images: {train:,} to train, {validation:,} to validate, {test:,} to test")
        for key, left_out in zip(
            ("data.max-train-samples", "data.max-test-samples"),
            load_images(config.data, look=False).num_left_out,
            strict=True,
        ):
            if left_out:
                say(f"{left_out:,} more are not used ({key})")
        num_clients, pooled = len(self._counts), self._strategy.pooled
        small = [n for n in map(sum, self._counts) if 0 < n < config.batch_size]
        if small and not pooled:
            say(
                f"{len(small)} of {num_clients} clients have fewer images than batch-size = "
                f"{config.batch_size} (the smallest shard has {min(small)}): their only batch is "
                "smaller"
            )
        known = costs(config, self._prepared, split=split, pooled=pooled, num_clients=num_clients)
        self.recorder.start(
            {
                "partitioner": clients.divided_by(config.data.partitioner),
                "engine": self.process.engine,
                "pretrained": self._prepared.pretrained,
                "weights_sha256": weights_digest(self._prepared.model),
                "num_clients": num_clients,
                **sizes,
                "cut_layer": config.split.cut_layer if split else None,
                **known,
                **environment(config.server_device, code_digest(config)),
            },
            metrics=(*self._strategy.metrics(), *self._prepared.observers.metrics),
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
        self.load(states)
        results = self._scored(states)
        scores = round_scores(results)
        loss, accuracy = scores["test_loss"], scores["test_accuracy"]
        if server_round == 0:
            self.recorder.note_initial(test_loss=loss, test_accuracy=accuracy)
        else:
            balanced = class_scores(self._confusion)["final_balanced_accuracy"]
            self.recorder.note(**scores, test_balanced_accuracy=balanced)
            self._sinks.send_round(self.recorder.end_round())
        return {"loss": loss, "accuracy": accuracy}

    def score_classes(self) -> None:
        """Score the current weights, if a run was resumed after its last round."""
        if self._confusion is None:
            self._scored(self._own_states or [self.initial_state()])

    def _scored(self, states: Sequence[Mapping[str, Tensor]]) -> list[Scored]:
        if len(states) == 1:
            results = [score_model(self._prepared, self._config.server_device)]
        else:
            results = score_clients(self._prepared, self._config, states, self._show_scoring)
        self._confusion = sum((result.confusion for result in results[1:]), results[0].confusion)
        return results

    def show_progress(self, done: int, total: int, purpose: Purpose) -> None:
        """Log the progress of a long round."""
        doing = "training" if purpose is Purpose.TRAIN else "evaluation"
        self.recorder.progress(done, total, doing=doing)

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take weights as `evaluate` does, without scoring them."""
        load_exchanged(self._client_part, states[0])  # one model can hold one client's part
        self._own_states = states if len(states) > 1 else []

    def model(self, *, copied: bool = False) -> SplitModel:
        """Return the model with its current weights, on the CPU and with adapters merged.

        Parameters
        ----------
        copied : bool
            Return a copy: otherwise the run's own model is changed, and cannot train again.
        """
        parts = self._prepared.model
        model = SplitModel(*(part.cpu() for part in (copy.deepcopy(parts) if copied else parts)))
        merge_adapters(model)
        return model

    def save(self, model: SplitModel, folder: Path, clients_folder: Path) -> None:
        """Save a model that `model` has returned, and the parts that clients keep.

        Raises
        ------
        FedSplitError
            If they cannot be written.
        """
        spec, names = self._prepared.spec, self._prepared.class_names
        replace_folder(folder, lambda new: save_model(model.merge(), spec, new, class_names=names))
        if self._own_states:
            replace_folder(clients_folder, self._save_parts)

    def _save_parts(self, folder: Path) -> None:
        for client, state in enumerate(self._own_states):
            save_part(state, folder / f"{client}.safetensors")

    def finish(self, model: SplitModel) -> Outcome:
        """Write the summary, and show the results.

        Parameters
        ----------
        model : SplitModel
            With the final weights.
        """
        # Cuts and strategies name the weights alike once the parts are one model.
        digest = tensors_digest(model.merge().state_dict())
        final = {"final_weights_sha256": digest, **class_scores(self._confusion)}
        summary = self.recorder.finish(final, before=self._write_cards)
        self._sinks.send_summary(summary)
        rows, folder = self.recorder.rows, self.directory.path
        for line in results_table(summary).splitlines():
            say(line)
        for fault in faults_of(summary):
            warn(fault)
        counts, names = self._counts, self._prepared.class_names
        draw_or_warn(folder / "rounds.png", lambda path: plot_run(rows, summary, path))
        draw_or_warn(folder / "shards.png", lambda path: plot_shards(counts, names, path))
        return Outcome(rows, summary, model, self.directory)

    def _write_cards(self, summary: Mapping[str, Any]) -> None:
        config, names, own = self._config, self._prepared.class_names, bool(self._own_states)
        directory, rows = self.directory, self.recorder.rows
        best = directory.checkpoints.best_round(rows, config.monitor)
        for saved, number in ((directory.model_dir, len(rows)), (directory.best_dir, best)):
            if number and saved.is_dir():
                card = model_card(summary, config, names, rows[number - 1], own=own)
                replace_text(saved / "README.md", card)

    def close(self) -> None:
        """Release what a run holds, whether it has finished or failed."""
        self._sinks.close()
        self.directory.close()

    def _show_scoring(self, done: int, total: int) -> None:
        self.recorder.progress(done, total, doing="scoring")

    def _show_start(self) -> None:
        counts, names = self._counts, self._prepared.class_names
        say(f"Run directory: {self.directory.path}")
        total, *of_each = shard_table(counts, names).splitlines()
        say(total)
        for line in of_each:
            note(line)
        self.directory.write_shards(counts, names)
