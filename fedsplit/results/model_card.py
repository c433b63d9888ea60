"""The model card beside saved weights: what they are, and how they were trained.

It is the README.md that the Hugging Face Hub shows. Local paths and names of clients are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsplit.config import Config, Scalar
from fedsplit.names import printable, some
from fedsplit.results.summary import what_ran
from fedsplit.results.text import counted, fixed

_HEAD = """---
pipeline_tag: image-classification
tags:
- federated-learning
- split-learning
- fedsplit
---
"""
_NOT_OF_THE_MODEL = ("output-dir", "run-name", "resume", "console", "channel.", "sinks.")
_PATHS = ("data.name", "model.name")


def model_card(
    summary: Mapping[str, Any], config: Config, class_names: Sequence[str], *, best: bool
) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    summary : Mapping[str, Any]
        The run's summary.
    config : Config
        Its config.
    class_names : Sequence[str]
        In the order of the logits.
    best : bool
        Whether the weights are those after the best round, or after the last.
    """
    shown = {key: _last_part(summary[key]) for key in ("model", "dataset")}
    done = summary["best_round"] if best else summary["finished_rounds"]
    accuracy = summary["best_accuracy"] if best else summary["final_accuracy"]
    start = "pretrained weights" if summary["pretrained"] else "weights drawn from the seed"
    names = some([printable(name) for name in class_names], limit=20)
    lines = [
        f"{_HEAD}# {what_ran({**summary, **shown}, rounds=counted(done, 'round'))}",
        "",
        "An image classifier, trained with fedsplit by federated split learning. It began with "
        f"{start}. The images stayed with {counted(summary['num_clients'], 'client')}.",
        "",
        f"- Test accuracy: {fixed(accuracy, 4)} on {summary['num_test_examples']:,} images",
        f"- Trained on: {summary['num_train_examples']:,} images",
        f"- Classes: {len(class_names)} ({names})",
        f"- Versions: fedsplit {summary['fedsplit_version']}, torch {summary['torch_version']}, "
        f"flwr {summary['flwr_version']}",
        "",
        "Keys of the run that differ from fedsplit's defaults:",
        "",
        "```toml",
        *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in _changed(config)),
        "```",
        "",
    ]
    return "\n".join(lines)


def _changed(config: Config) -> list[tuple[str, Scalar]]:
    return [
        (key, _last_part(value) if key in _PATHS else value)
        for key, value in config.changed().items()
        if not key.startswith(_NOT_OF_THE_MODEL)
    ]


def _last_part(name: Any) -> str:  # noqa: ANN401 - a value of the summary
    """Return a name without the folders of this machine in front of it."""
    return Path(name).name if Path(name).is_absolute() else str(name)
