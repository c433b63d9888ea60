"""Central evaluation: the whole model's score on the held-out test set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from fedsplit.config import Config
from fedsplit.data.loader import device_batches
from fedsplit.exchanged_state import load_exchanged
from fedsplit.interruption import stopping_loops
from fedsplit.models.split import SplitModel
from fedsplit.participants import clients_at_once
from fedsplit.preparation import Preparation
from fedsplit.split.local import evaluate_batches
from fedsplit.split.steps import StepResult, score

_BATCH_SIZE = 128


class Scored(NamedTuple):
    """The score of a model on the test set.

    Attributes
    ----------
    loss, accuracy : float
        Means over the images.
    confusion : Tensor
        [classes, classes], int64, on the CPU: images by true class (rows) and predicted class.
    measured : Mapping[str, float]
        The metrics that the run's observers measure, by key.
    """

    loss: float
    accuracy: float
    confusion: Tensor
    measured: Mapping[str, float]


def score_model(prepared: Preparation, device: str) -> Scored:
    """Score a run's model with its current weights.

    Parameters
    ----------
    prepared : Preparation
        Its model and test images.
    device : str
        Where the model is.
    """
    for part in prepared.model:
        part.eval()
    whole, images = prepared.whole, prepared.test
    data = device_batches(images, _BATCH_SIZE, device=device)
    classes = len(prepared.class_names)
    confusion = torch.zeros(classes * classes, dtype=torch.int64)
    kept: list[Tensor] = []

    def objective(x: Tensor, y: Tensor) -> StepResult:
        logits = whole(x)
        places = y * classes + logits.argmax(dim=-1)
        confusion.add_(torch.bincount(places, minlength=len(confusion)).cpu())
        if prepared.observers.metrics:
            kept.append(logits.float().cpu())
        return score(logits, y)

    result = evaluate_batches(data, objective)
    measured = prepared.observers.measured(torch.cat(kept), images.labels) if kept else {}
    return Scored(result.loss, result.accuracy, confusion.view(classes, classes), measured)


def round_scores(results: Sequence[Scored]) -> dict[str, float]:
    """Return the means over several models, by the keys of a round's row."""
    return {
        "test_loss": fmean(result.loss for result in results),
        "test_accuracy": fmean(result.accuracy for result in results),
        **{key: fmean(r.measured[key] for r in results) for key in results[0].measured},
    }


def score_clients(
    prepared: Preparation,
    config: Config,
    states: Sequence[Mapping[str, Tensor]],
    progress: Callable[[int, int], object],
) -> list[Scored]:
    """Score the model with each client's own part; the run's model is unchanged.

    Parameters
    ----------
    prepared : Preparation
        Its model and test images.
    config : Config
        Its limit on concurrent clients applies here too: no client is training.
    states : Sequence[Mapping[str, Tensor]]
        One for each client. Clients with the same object are scored once.
    progress : Callable[[int, int], object]
        Called with the number of scored states and of all states.
    """
    device = config.server_device
    distinct = {id(state): state for state in states}
    at_once = min(len(distinct), clients_at_once(config))
    idle: SimpleQueue[Preparation] = SimpleQueue()
    for _ in range(at_once):
        idle.put(_with_its_own_client_part(prepared))

    def one(state: Mapping[str, Tensor]) -> Scored:
        mine = idle.get()
        try:
            load_exchanged(mine.client_part, state)
            return score_model(mine, device)
        finally:
            idle.put(mine)

    results: dict[int, Scored] = {}
    with ThreadPoolExecutor(at_once, thread_name_prefix="fedsplit-scoring") as threads:
        try:
            for key, result in zip(distinct, threads.map(one, distinct.values()), strict=True):
                results[key] = result
                progress(len(results), len(distinct))
        except BaseException:  # also KeyboardInterrupt: leaving the block waits for its threads
            with stopping_loops():
                threads.shutdown(cancel_futures=True)
            raise
    return [results[id(state)] for state in states]


def _with_its_own_client_part(prepared: Preparation) -> Preparation:
    bottom, trunk, top = prepared.model
    return replace(prepared, model=SplitModel(copy.deepcopy(bottom), trunk, copy.deepcopy(top)))
