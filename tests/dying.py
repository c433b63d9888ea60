"""A process that kills itself at a drawn moment, as `kill -9` does."""

from __future__ import annotations

import importlib
import os
import signal

MOMENTS = {
    "in a step": ("fedsplit.split.training", "Training.update", 55),
    "in evaluation by clients": ("fedsplit.client_app", "evaluate_batches", 10),
    "in evaluation on the test set": ("fedsplit.scoring", "evaluate_batches", 3),
    "in the bookkeeping of a round": ("strategies.base", "check_enough", 3),
    "in aggregation": ("strategies.halves", "combine_contributions", 3),
    "while clients are waited for": ("strategies.asking", "AskingGrid._is_gone", 60),
    "while a row is written": ("fedsplit.results.run_directory", "RunDirectory.append_round", 3),
    "before a file is on the disk": ("fedsplit.results.files", "_sync", 8),
    "while a checkpoint is written": ("fedsplit.snapshot", "_parts", 3),
    "while the model is saved": ("fedsplit.experiment", "save_model", 1),
    "while the summary is written": (
        *("fedsplit.results.run_directory", "RunDirectory.write_summary"),
        1,
    ),
}
"""Module, function, and how often at most it is called before the process dies in it."""


def die_in(moment: str, count: int) -> None:
    """Kill this process in the `count`-th call of a moment's function."""
    module_name, path, _ = MOMENTS[moment]
    owner: object = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real, calls = getattr(owner, name), 0

    def dying(*given: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    setattr(owner, name, dying)
