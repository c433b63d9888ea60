"""The tables of a comparison's report, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from fedsplit.fields import Field, Metric, fields_shown_in
from fedsplit.report.comparison import DEFAULTS
from fedsplit.report.gather import Gathered, RunRecord
from fedsplit.report.measures import (
    CLIENT_FLOPS_LABEL,
    EVALUATION_LABEL,
    TRAINING_LABEL,
    Estimate,
    client_flops,
    estimate,
    evaluation_bytes,
    training_bytes,
)
from fedsplit.results.text import NOTHING, shown, with_unit

Show = Callable[[float], str]
Source = str | Callable[[RunRecord], float | None]
Column = tuple[str, Source, Show]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes
    ----------
    text : str
        What is shown.
    exact : str
        The values behind it, in full. May be empty.
    """

    text: str
    exact: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a row for each variant.

    Attributes
    ----------
    caption : str
        What it shows.
    header : list[str]
        The names of all columns.
    rows : list[list[Cell]]
        The first cell is the row's header.
    """

    caption: str
    header: list[str]
    rows: list[list[Cell]]


def exactly(value: float) -> str:
    """Return a number in full, or with six significant digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def cell(
    found: Estimate | None, show: Show, *, zero: bool = False, planned: int | None = None
) -> Cell:
    """Return a mean with its deviation, if there is one, and the values of all seeds.

    Parameters
    ----------
    found : Estimate | None
        The mean and its values.
    show : Show
        Writes a number.
    zero : bool
        Show a deviation of 0, too: what does not depend on seeds reads better without.
    planned : int | None
        The number of seeds that there should be. The cell says if there are fewer.
    """
    if found is None:
        return Cell(NOTHING)
    text = show(found.mean)
    if found.deviation or (zero and found.deviation is not None):
        text += f" ± {show(found.deviation)}"
    if planned is not None and len(found.values) < planned:
        text += f" (n = {len(found.values)})"
    return Cell(text, "; ".join(exactly(value) for value in found.values))


def columns_of(fields: Iterable[Field]) -> tuple[Column, ...]:
    """Return a column for each field of a summary."""
    return tuple((field.label, field.key, partial(shown, field)) for field in fields)


bytes_: Show = partial(with_unit, unit="B")
flops: Show = partial(with_unit, unit="FLOP")
_TRAFFIC: tuple[Column, ...] = (
    *columns_of(fields_shown_in("traffic")),
    (TRAINING_LABEL, training_bytes, bytes_),
    (EVALUATION_LABEL, evaluation_bytes, bytes_),
)
_SIDES = columns_of(fields_shown_in("sides"))
_TIME: tuple[Column, ...] = (
    (CLIENT_FLOPS_LABEL, client_flops, flops),
    *columns_of(fields_shown_in("time")),
)


def traffic_tables(gathered: Gathered) -> list[Table]:
    """Return the bytes of all clients together in the whole run, by purpose and direction."""
    return _for_settings(gathered, "Bytes of all clients in the whole run", _TRAFFIC)


def side_tables(gathered: Gathered) -> list[Table]:
    """Return what each side holds and computes."""
    return _for_settings(gathered, "What client and server hold and compute", _SIDES)


def time_tables(gathered: Gathered) -> list[Table]:
    """Return times, and what they depend on."""
    return _for_settings(gathered, "Compute and time of one run", _TIME)


def metric_tables(gathered: Gathered) -> list[Table]:
    """Return the metrics that strategies and rules declare: none if there are none."""
    records = gathered.finished.values()
    metrics = dict.fromkeys(metric for record in records for metric in record.metrics)
    columns = [
        (metric.label, partial(_declared, metric=metric), partial(shown, metric))
        for metric in metrics
        if metric.over_rounds != "none"
    ]
    return _for_settings(gathered, "Declared metrics of one run", columns) if columns else []


def _declared(record: RunRecord, *, metric: Metric) -> float | None:
    """Return a run's value, if it declares this metric and not another one of the same key."""
    return record.summary.get(metric.key) if metric in record.metrics else None


def _for_settings(gathered: Gathered, caption: str, columns: Sequence[Column]) -> list[Table]:
    """Return a table for each setting, or one for all if they agree, without empty columns.

    A setting without runs agrees with none: the numbers of the others need not be its own.
    """
    labels = list(gathered.comparison.variants)
    bodies: dict[str, list[list[Cell]]] = {}
    made = [setting for setting in gathered.settings if gathered.has_runs(setting)]
    for setting in made or gathered.settings:
        bodies[setting] = [
            [cell(estimate(gathered.of(setting, label), of), show) for _, of, show in columns]
            for label in labels
        ]
    if len(bodies) == len(gathered.settings) and (merged := _merged(list(bodies.values()))):
        bodies = {"": merged}
    return [
        without_empty_columns(
            Table(
                f"{caption}: {setting}" if setting else caption,
                ["variant", *(name for name, _, _ in columns)],
                [[Cell(label), *row] for label, row in zip(labels, body, strict=True)],
            )
        )
        for setting, body in bodies.items()
    ]


def _merged(bodies: Sequence[list[list[Cell]]]) -> list[list[Cell]]:
    """Return the one body that several equal ones make, or nothing if two of their cells differ."""
    merged: list[list[Cell]] = []
    for rows in zip(*bodies, strict=True):
        merged.append([])
        for cells in zip(*rows, strict=True):
            said = {each.text: each for each in cells if each.text != NOTHING}
            if len(said) > 1:
                return []
            merged[-1].append(next(iter(said.values()), Cell(NOTHING)))
    return merged


def without_empty_columns(table: Table) -> Table:
    """Return a table without the columns that have no value."""
    kept = [
        i for i in range(len(table.header)) if any(row[i].text != NOTHING for row in table.rows)
    ]
    return Table(
        table.caption,
        [table.header[i] for i in kept],
        [[row[i] for i in kept] for row in table.rows],
    )


def difference_tables(gathered: Gathered) -> Iterator[Table]:
    """Yield a table of the keys in which variants differ, and one for settings."""
    comparison = gathered.comparison
    shared = {**DEFAULTS, **comparison.base}
    for what, of_label in (("variant", comparison.variants), ("setting", comparison.settings)):
        names = dict.fromkeys(key for table in of_label.values() for key in table)
        values = {
            key: [_plain({**shared, **table}[key]) for table in of_label.values()] for key in names
        }
        differing = [key for key, column in values.items() if len(set(column)) > 1]
        if differing:
            yield Table(
                f"What differs between {what}s",
                [what, *differing],
                [
                    [Cell(label), *(Cell(values[key][number]) for key in differing)]
                    for number, label in enumerate(of_label)
                ],
            )


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'
