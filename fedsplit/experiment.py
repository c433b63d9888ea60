"""One run's model and results: its weights at the start, its score after each round, its end."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedsplit.config import Config
from fedsplit.data.loader import batches
from fedsplit.data.view import plot_shards, shard_table
from fedsplit.models.loading import save_model
from fedsplit.models.split import SplitModel, join_parts
from fedsplit.preparation import Preparation
from fedsplit.results.flops import count_parameters, split_flops
from fedsplit.results.plots import plot_run
from fedsplit.results.recorder import Recorder
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.table import results_table
from fedsplit.split.local import LocalResult, evaluate_batches
from fedsplit.split.server import Purpose
from fedsplit.split.steps import score

_logger = logging.getLogger(__name__)
_EVALUATION_BATCH_SIZE = 128


@dataclass(frozen=True)
class Outcome:
    """What a run leaves.

    Attributes
    ----------
    rounds : list[dict[str, Any]]
        The objects in rounds.jsonl.
    summary : dict[str, Any]
        The object in summary.json.
    model : SplitModel
        The final weights.
    run_directory : RunDirectory
        Where all of it is kept.
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
        Whether clients hold the bottom only, or the whole model.
    class_counts : Mapping[int, Sequence[int]]
        Client -> training images of each class.
    engine : str
        What summary.json calls the engine.
    log : Callable[[str], None]
        Takes one line for the person who watches.
    """

    def __init__(
        self,
        *,
        config: Config,
        prepared: Preparation,
        split: bool,
        class_counts: Mapping[int, Sequence[int]],
        engine: str,
        log: Callable[[str], None],
    ) -> None:
        self._config = config
        self._prepared = prepared
        self._log = log
        self._client_part = prepared.model.bottom if split else join_parts(*prepared.model)
        self._run_directory = RunDirectory.create(config)
        self.recorder = Recorder(self._run_directory, config, log)
        self._show_start(class_counts)
        self._start_recorder(split=split, num_clients=len(class_counts), engine=engine)

    def initial_state(self) -> dict[str, Tensor]:
        """Return the weights that clients start from: of the bottom, or of the whole model."""
        return dict(self._client_part.state_dict())

    def evaluate(self, server_round: int, state: Mapping[str, Tensor]) -> dict[str, float]:
        """Score the aggregated weights on the test set, and write the round's row.

        Parameters
        ----------
        server_round : int
            0 before the first round.
        state : Mapping[str, Tensor]
            Named as `initial_state`.
        """
        self._client_part.load_state_dict(state, strict=True)
        result = self._test()
        if server_round == 0:
            self.recorder.note_initial(test_loss=result.loss, test_accuracy=result.accuracy)
        else:
            self.recorder.note(test_loss=result.loss, test_accuracy=result.accuracy)
            self.recorder.end_round()
        return {"loss": result.loss, "accuracy": result.accuracy}

    def show_progress(self, done: int, total: int, purpose: Purpose) -> None:
        """Tell whoever watches a long round how far it is."""
        doing = "training" if purpose is Purpose.TRAIN else "evaluation"
        self.recorder.progress(done, total, doing=doing)

    def finish(self) -> Outcome:
        """Save the model, write the summary, and show the results."""
        directory = self._run_directory
        model = SplitModel(*(part.cpu() for part in self._prepared.model))
        save_model(model.merge(), self._prepared.spec, directory.model_dir)
        summary = self.recorder.finish()
        rows = self.recorder.rows
        for line in results_table(rows, summary).splitlines():
            self._log(line)
        _draw(directory.path / "rounds.png", lambda path: plot_run(rows, summary, path))
        return Outcome(rows, summary, model, directory)

    def _test(self) -> LocalResult:
        bottom, server_part = self._prepared.model.bottom, self._prepared.model.server_part()
        _ = bottom.eval(), server_part.eval()
        images, device = self._prepared.test, self._config.device
        data = (
            tuple(tensor.to(device) for tensor in images.batch(indices))
            for indices in batches(len(images), _EVALUATION_BATCH_SIZE, generator=None)
        )
        return evaluate_batches(
            ((x, y) for x, y in data), lambda x, y: score(server_part(bottom(x)), y)
        )

    def _start_recorder(self, *, split: bool, num_clients: int, engine: str) -> None:
        model, spec = self._prepared.model, self._prepared.spec
        server_part = model.server_part()
        shape = (spec.channels, spec.height, spec.width)
        client_flops, server_flops = split_flops(model.bottom, server_part, shape)
        client, server = count_parameters(model.bottom), count_parameters(server_part)
        self.recorder.start(
            engine=engine,
            num_clients=num_clients,
            cut_layer=self._config.split.cut_layer if split else None,
            client_parameters=client if split else client + server,
            server_parameters=server if split else 0,
            client_flops_per_sample=client_flops if split else client_flops + server_flops,
            server_flops_per_sample=server_flops if split else 0,
        )

    def _show_start(self, class_counts: Mapping[int, Sequence[int]]) -> None:
        self._log(f"Run directory: {self._run_directory.path}")
        counts = [class_counts[client] for client in sorted(class_counts)]
        names = self._prepared.class_names
        for line in shard_table(counts, names).splitlines():
            self._log(line)
        shards = self._run_directory.path / "shards.png"
        _draw(shards, lambda path: plot_shards(counts, names, path))


def _draw(path: Path, plot: Callable[[Path], None]) -> None:
    """Make a picture; one that cannot be made is no reason to lose a run."""
    with warnings.catch_warnings():
        # Of names in a script that matplotlib's font lacks: the picture then has boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        try:
            plot(path)
        except Exception as error:
            _logger.warning(
                "'%s' cannot be drawn (%s: %s); the run goes on without this picture.",
                *(path, type(error).__name__, error),
            )
