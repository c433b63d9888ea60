"""What `simulate` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsplit.models.split import SplitModel
from fedsplit.results.summary import what_ran
from fedsplit.results.table import rounds_of
from fedsplit.results.text import duration, fixed, with_unit

_WIDTH_COLUMNS = 80
_PURPOSES = ("cut", "evaluate", "sync")


@dataclass(frozen=True, repr=False)
class Result:
    """What `simulate` returns. Printed, it is three lines: what ran, how well, and where it is.

    Attributes
    ----------
    rounds : list[dict[str, Any]]
        One dict per round, as in rounds.jsonl.
    summary : dict[str, Any]
        As in summary.json.
    model : SplitModel
        The final weights, on the CPU.
    run_dir : Path
        The run directory.
    """

    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    model: SplitModel
    run_dir: Path

    def __repr__(self) -> str:
        summary = self.summary
        accuracy = f"test accuracy {fixed(summary['final_accuracy'], 4)}"
        if summary["best_accuracy"] != summary["final_accuracy"]:
            accuracy += f" (best {fixed(summary['best_accuracy'], 4)})"
        sent = {
            way: sum(summary[f"{purpose}_{way}link_bytes"] for purpose in _PURPOSES)
            for way in ("up", "down")
        }
        bytes_sent = ", ".join(f"{with_unit(count, 'B')} {way}" for way, count in sent.items())
        return "\n".join(
            [
                _title(summary),
                f"{accuracy}, {bytes_sent}, {duration(summary['wall_seconds'])}",
                str(self.run_dir),
            ]
        )


def _title(summary: Mapping[str, Any]) -> str:
    """Say what ran, in a line of 80 columns if its names are short enough."""
    names = {key: summary[key].removeprefix("object:") for key in ("model", "dataset")}
    title = what_ran({**summary, **names}, rounds=rounds_of(summary))
    return (
        title if len(title) <= _WIDTH_COLUMNS else title.removesuffix(f", seed {summary['seed']}")
    )
