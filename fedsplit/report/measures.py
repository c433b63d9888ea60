"""Measurements over several seeds: estimates for tables, curves for pictures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsplit.drawing.lines import Line
from fedsplit.fields import fields_shown_in, traffic_fields
from fedsplit.report.gather import RunRecord

Row = Mapping[str, Any]

TRAINING_BYTES = tuple(field.key for field in fields_shown_in("traffic"))
EVALUATION_BYTES = tuple(field.key for field in traffic_fields("evaluate"))

TRAINING_LABEL = "bytes of training"
EVALUATION_LABEL = "bytes of evaluation"
CLIENT_FLOPS_LABEL = "FLOPs of all clients"
"""The names of what is added up here, the same in tables and pictures."""


@dataclass(frozen=True)
class Estimate:
    """A number over several seeds.

    Attributes
    ----------
    values : tuple[float, ...]
        One for each seed that has a value.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (divided by n - 1); None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def estimate(
    records: Sequence[RunRecord], of: str | Callable[[RunRecord], float | None]
) -> Estimate | None:
    """Return the estimate of a value over the runs that have it, or None if no run has it.

    Parameters
    ----------
    records : Sequence[RunRecord]
        The runs of one variant in one setting.
    of : str | Callable[[RunRecord], float | None]
        The key of the summary, or a function that returns the value of a run.
    """
    found = [r.summary.get(of) if isinstance(of, str) else of(r) for r in records]
    values = tuple(value for value in found if value is not None)
    return Estimate(values) if values else None


def training_bytes(record: RunRecord) -> int:
    """Return the bytes at the cut and for synchronising, both ways, without evaluation."""
    return sum(record.summary[key] for key in TRAINING_BYTES)


def evaluation_bytes(record: RunRecord) -> int:
    """Return the bytes of federated evaluation, both ways."""
    return sum(record.summary[key] for key in EVALUATION_BYTES)


def client_flops(record: RunRecord) -> int:
    """Return the training FLOPs of all clients together, over all rounds."""
    samples = sum(row["num_examples"] or 0 for row in record.rounds)
    return samples * int(record.summary["client_flops_per_sample"])


def rounds_so_far(row: Row, record: RunRecord) -> float:
    """Return what one round adds to the number of rounds."""
    return 1.0


def bytes_so_far(row: Row, record: RunRecord) -> float:
    """Return what one round adds to the bytes of training."""
    return float(sum(row[key] or 0 for key in TRAINING_BYTES))


def client_flops_so_far(row: Row, record: RunRecord) -> float:
    """Return what one round adds to the FLOPs of all clients."""
    return float((row["num_examples"] or 0) * record.summary["client_flops_per_sample"])


def curve(
    records: Sequence[RunRecord],
    label: str,
    number: int,
    growth: Callable[[Row, RunRecord], float],
) -> Line | None:
    """Return test accuracy against a growing quantity, or None if there is no accuracy.

    Its points are means over seeds, from before the first round (x = 0) to the last, with the
    sample standard deviation of each y.

    Parameters
    ----------
    records : Sequence[RunRecord]
        One run for each seed. A round is left out unless all of them have measured it.
    label : str
        The label of the variant.
    number : int
        The number of the variant.
    growth : Callable[[Row, RunRecord], float]
        What one round adds to x.
    """
    runs = []
    for record in records:
        sums = itertools.accumulate((growth(row, record) for row in record.rounds), initial=0.0)
        ys = [record.summary["initial_accuracy"], *(row["test_accuracy"] for row in record.rounds)]
        runs.append(list(zip(sums, ys, strict=True)))
    points = [
        (statistics.fmean(x for x, _ in of_round), Estimate(tuple(y for _, y in of_round)))
        for of_round in zip(*runs, strict=False)
        if all(y is not None for _, y in of_round)
    ]
    if not points:
        return None
    deviations = [found.deviation for _, found in points]
    return Line(
        label,
        number,
        [x for x, _ in points],
        [found.mean for _, found in points],
        [d for d in deviations if d is not None],
    )


def accuracy_by_round(records: Sequence[RunRecord]) -> dict[int, Estimate]:
    """Return test accuracy over the seeds, by round; 0 is before the first round."""
    found: dict[int, list[float]] = {}
    for record in records:
        scores = [(0, record.summary["initial_accuracy"])]
        scores += [(row["round"], row["test_accuracy"]) for row in record.rounds]
        for number, score in scores:
            if score is not None:
                found.setdefault(number, []).append(score)
    return {number: Estimate(tuple(values)) for number, values in sorted(found.items())}
