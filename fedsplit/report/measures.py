"""Measurements over several seeds: estimates for tables, curves for pictures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsplit.fields import fields_shown_in, traffic_fields
from fedsplit.report.gather import RunRecord

Row = Mapping[str, Any]

TRAINING_BYTES = tuple(field.key for field in fields_shown_in("traffic"))
EVALUATION_BYTES = tuple(field.key for field in traffic_fields("evaluate"))


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


@dataclass(frozen=True)
class Curve:
    """Accuracy against a quantity that grows from round to round, as means over seeds.

    Attributes
    ----------
    label : str
        The label of the variant.
    number : int
        The number of the variant, which decides its colour and mark.
    xs, ys : list[float]
        From before the first round (x = 0) to the last.
    deviation : float | None
        The sample standard deviation of the last y.
    """

    label: str
    number: int
    xs: list[float]
    ys: list[float]
    deviation: float | None


def curve(
    records: Sequence[RunRecord],
    label: str,
    number: int,
    growth: Callable[[Row, RunRecord], float],
) -> Curve | None:
    """Return test accuracy against a growing quantity, or None if there is no accuracy.

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
    lines = []
    for record in records:
        sums = itertools.accumulate((growth(row, record) for row in record.rounds), initial=0.0)
        ys = [record.summary["initial_accuracy"], *(row["test_accuracy"] for row in record.rounds)]
        lines.append(list(zip(sums, ys, strict=True)))
    points = [
        tuple(map(statistics.fmean, zip(*of_round, strict=True)))
        for of_round in zip(*lines, strict=False)
        if all(y is not None for _, y in of_round)
    ]
    if not points:
        return None
    final = estimate(records, "final_accuracy")
    return Curve(
        label,
        number,
        [x for x, _ in points],
        [y for _, y in points],
        final.deviation if final else None,
    )
