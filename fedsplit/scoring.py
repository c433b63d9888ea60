"""Central evaluation: the whole model's score on the held-out test set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

from torch import Tensor

from fedsplit.checking import clients_at_once
from fedsplit.config import Config
from fedsplit.data.loader import batches
from fedsplit.exchanged_state import load_exchanged
from fedsplit.interruption import stopping_loops
from fedsplit.models.split import SplitModel
from fedsplit.preparation import Preparation
from fedsplit.split.local import LocalResult, evaluate_batches
from fedsplit.split.steps import score

_BATCH_SIZE = 128


def score_model(prepared: Preparation, device: str) -> LocalResult:
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
    data = (images.batch(indices) for indices in batches(len(images), _BATCH_SIZE, generator=None))
    return evaluate_batches(
        ((x.to(device), y.to(device)) for x, y in data), lambda x, y: score(whole(x), y)
    )


def score_clients(
    prepared: Preparation,
    config: Config,
    states: Sequence[Mapping[str, Tensor]],
    progress: Callable[[int, int], object],
) -> list[LocalResult]:
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
    distinct = {id(state): state for state in states}
    at_once = min(len(distinct), clients_at_once(config))
    idle: SimpleQueue[Preparation] = SimpleQueue()
    for _ in range(at_once):
        idle.put(_with_its_own_client_part(prepared))

    def one(state: Mapping[str, Tensor]) -> LocalResult:
        mine = idle.get()
        try:
            load_exchanged(mine.client_part, state)
            return score_model(mine, config.device)
        finally:
            idle.put(mine)

    results: dict[int, LocalResult] = {}
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
