"""What is measured, gathered over seeds: estimates for tables, curves for pictures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsplit.report.gather import RunRecord
from fedsplit.results.summary import BYTE_KEYS

Row = Mapping[str, Any]

TRAINING_BYTES = tuple(key for key in BYTE_KEYS if not key.startswith("evaluate"))
EVALUATION_BYTES = tuple(key for key in BYTE_KEYS if key.startswith("evaluate"))


@dataclass(frozen=True)
class Estimate:
    """A number over several seeds.

    Attributes
    ----------
    values : tuple[float, ...]
        One of each seed that has it.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (divided by n - 1); None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def estimate(
    records: Sequence[RunRecord], of: str | Callable[[RunRecord], float | None]
) -> Estimate | None:
    """Return a summary's key, or what a function makes of a run, over runs that have it.

    Parameters
    ----------
    records : Sequence[RunRecord]
        Of one variant in one setting.
    of : str | Callable[[RunRecord], float | None]
        The key or the function.
    """
    found = [r.summary.get(of) if isinstance(of, str) else of(r) for r in records]
    values = tuple(value for value in found if value is not None)
    return Estimate(values) if values else None


def training_bytes(record: RunRecord) -> int:
    """Return what crossed at the cut and for synchronising, both ways; evaluation is apart."""
    return sum(record.summary[key] for key in TRAINING_BYTES)


def evaluation_bytes(record: RunRecord) -> int:
    """Return what crossed for federated evaluation, both ways."""
    return sum(record.summary[key] for key in EVALUATION_BYTES)


def client_flops(record: RunRecord) -> int:
    """Return the FLOPs of training of all clients together, over all rounds."""
    samples = sum(row["num_examples"] or 0 for row in record.rounds)
    return samples * int(record.summary["client_flops_per_sample"])


def rounds_so_far(row: Row, record: RunRecord) -> float:
    """Return what a round adds to the number of rounds."""
    return 1.0


def bytes_so_far(row: Row, record: RunRecord) -> float:
    """Return what a round adds to the bytes of training."""
    return float(sum(row[key] or 0 for key in TRAINING_BYTES))


def client_flops_so_far(row: Row, record: RunRecord) -> float:
    """Return what a round adds to the clients' FLOPs."""
    return float((row["num_examples"] or 0) * record.summary["client_flops_per_sample"])


@dataclass(frozen=True)
class Curve:
    """Accuracy against something that grows from round to round, as means over seeds.

    Attributes
    ----------
    label : str
        Of the variant.
    number : int
        Of the variant, for its colour and mark.
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
    """Return test accuracy over what grows, or None if there is none.

    Parameters
    ----------
    records : Sequence[RunRecord]
        One run for each seed. Rounds that not all of them have measured are left out.
    label : str
        Of the variant.
    number : int
        Of the variant.
    growth : Callable[[Row, RunRecord], float]
        What a round adds to x.
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
