"""The model card beside saved weights: what they are, and how they were trained.

It is the README.md that the Hugging Face Hub shows. Local paths and names of clients are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsplit.config import Config, Scalar
from fedsplit.names import some
from fedsplit.results.summary import what_ran
from fedsplit.results.text import counted, escaped, fixed

_HEAD = """---
pipeline_tag: image-classification
tags:
- federated-learning
- split-learning
- fedsplit
---
"""
_MEAN = (
    ", the mean over all clients. Each keeps a bottom of its own, and this is the model with that "
    "of client 0"
)
_NOT_OF_THE_MODEL = ("output-dir", "run-name", "resume", "console", "channel.", "sinks.")
_PATHS = ("data.name", "model.name")


def model_card(
    summary: Mapping[str, Any],
    config: Config,
    class_names: Sequence[str],
    row: Mapping[str, Any],
    *,
    own: bool = False,
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
    row : Mapping[str, Any]
        The row of the round after which the weights were saved. That of ``best/`` need not be the
        summary's best round, of which there may be no checkpoint.
    own : bool
        Whether each client has a bottom of its own: the weights have that of client 0, and the
        score is the mean over all of them.
    """
    shown = {key: _last_part(summary[key]) for key in ("model", "dataset")}
    start = "pretrained weights" if summary["pretrained"] else "weights drawn from the seed"
    names = some([escaped(name) for name in class_names], limit=20)
    lines = [
        f"{_HEAD}# {what_ran({**summary, **shown}, rounds=counted(row['round'], 'round'))}",
        "",
        "An image classifier, trained with fedsplit by federated split learning. It began with "
        f"{start}. The images stayed with {counted(summary['num_clients'], 'client')}.",
        "",
        f"- Test accuracy: {fixed(row['test_accuracy'], 4)} on "
        f"{summary['num_test_examples']:,} images{_MEAN if own else ''}",
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
