"""The tables of a comparison's report, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from fedsplit.config import Config
from fedsplit.report.gather import Gathered, RunRecord
from fedsplit.report.measures import (
    Estimate,
    client_flops,
    estimate,
    evaluation_bytes,
    training_bytes,
)
from fedsplit.results.text import NOTHING, duration, fixed, with_unit

Show = Callable[[float], str]
Source = str | Callable[[RunRecord], float | None]
Column = tuple[str, Source, Show]


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes
    ----------
    text : str
        As people read it.
    exact : str
        The values behind it, in full; may be empty.
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
        Of all columns.
    rows : list[list[Cell]]
        The first cell is the row's header.
    """

    caption: str
    header: list[str]
    rows: list[list[Cell]]


def exactly(value: float) -> str:
    """Return a number in full."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def cell(found: Estimate | None, show: Show, *, zero: bool = False) -> Cell:
    """Return a mean with its deviation, if there is one, and the values of all seeds.

    A deviation of `zero` is shown on request: what does not depend on seeds reads better without.
    """
    if found is None:
        return Cell(NOTHING)
    text = show(found.mean)
    if found.deviation or (zero and found.deviation is not None):
        text += f" ± {show(found.deviation)}"
    return Cell(text, "; ".join(exactly(value) for value in found.values))


_accuracy: Show = partial(fixed, digits=3)
_bytes: Show = partial(with_unit, unit="B")
_flops: Show = partial(with_unit, unit="FLOP")
_numbers: Show = partial(with_unit, unit="")


_TRAFFIC: tuple[Column, ...] = (
    ("cut up", "cut_uplink_bytes", _bytes),
    ("cut down", "cut_downlink_bytes", _bytes),
    ("sync up", "sync_uplink_bytes", _bytes),
    ("sync down", "sync_downlink_bytes", _bytes),
    ("training, both ways", training_bytes, _bytes),
    ("evaluation, both ways", evaluation_bytes, _bytes),
)
_SIDES: tuple[Column, ...] = (
    ("client parameters", "client_parameters", _numbers),
    ("that train", "client_trainable_parameters", _numbers),
    ("server parameters", "server_parameters", _numbers),
    ("that train", "server_trainable_parameters", _numbers),
    ("client FLOPs per sample", "client_flops_per_sample", _flops),
    ("server FLOPs per sample", "server_flops_per_sample", _flops),
    ("client memory", "client_memory_bytes", _bytes),
    ("server memory", "server_memory_bytes", _bytes),
)
_TIME: tuple[Column, ...] = (
    ("all clients' FLOPs", client_flops, _flops),
    ("whole run", "wall_seconds", duration),
    ("training samples/s", "train_samples_per_second", partial(fixed, digits=0)),
    ("s per client-round", "seconds_per_client_round", partial(fixed, digits=2)),
    ("communication, measured", "communication_seconds", duration),
    ("communication, simulated", "simulated_communication_seconds", duration),
    ("failed clients", "failed_clients", partial(fixed, digits=0)),
)


def accuracy_table(gathered: Gathered) -> Table:
    """Return final and best test accuracy, settings side by side."""
    columns = (("final", "final_accuracy"), ("best", "best_accuracy"))
    header = ["variant"]
    header += [f"{s} {name}".strip() for s in gathered.settings for name, _ in columns]
    rows = [
        [
            Cell(label),
            *(
                cell(estimate(gathered.of(setting, label), key), _accuracy, zero=True)
                for setting in gathered.settings
                for _, key in columns
            ),
        ]
        for label in gathered.comparison.variants
    ]
    return Table("Test accuracy after the last round, and in the best", header, rows)


def traffic_tables(gathered: Gathered) -> list[Table]:
    """Return the bytes of all clients together in the whole run, by direction."""
    return _for_settings(gathered, "Bytes of all clients in the whole run", _TRAFFIC)


def side_tables(gathered: Gathered) -> list[Table]:
    """Return what each side holds and computes."""
    return _for_settings(gathered, "What client and server hold and compute", _SIDES)


def time_tables(gathered: Gathered) -> list[Table]:
    """Return how long it took."""
    return _for_settings(gathered, "Compute and time of one run", _TIME)


def _for_settings(gathered: Gathered, caption: str, columns: Sequence[Column]) -> list[Table]:
    """Return a table for each setting, or one for all if they agree; empty columns are left out."""
    labels = list(gathered.comparison.variants)
    bodies: dict[str, list[list[Cell]]] = {}
    for setting in gathered.settings:
        bodies[setting] = [
            [cell(estimate(gathered.of(setting, label), of), show) for _, of, show in columns]
            for label in labels
        ]
    if merged := _merged(list(bodies.values())):
        bodies = {"": merged}
    return [
        _without_empty_columns(
            Table(
                f"{caption}: {setting}" if setting else caption,
                ["variant", *(name for name, _, _ in columns)],
                [[Cell(label), *row] for label, row in zip(labels, body, strict=True)],
            )
        )
        for setting, body in bodies.items()
    ]


def _merged(bodies: Sequence[list[list[Cell]]]) -> list[list[Cell]]:
    """Return one body for several that say the same where they say anything, or nothing."""
    merged: list[list[Cell]] = []
    for rows in zip(*bodies, strict=True):
        merged.append([])
        for cells in zip(*rows, strict=True):
            said = {each.text: each for each in cells if each.text != NOTHING}
            if len(said) > 1:
                return []
            merged[-1].append(next(iter(said.values()), Cell(NOTHING)))
    return merged


def _without_empty_columns(table: Table) -> Table:
    kept = [
        i for i in range(len(table.header)) if any(row[i].text != NOTHING for row in table.rows)
    ]
    return Table(
        table.caption,
        [table.header[i] for i in kept],
        [[row[i] for i in kept] for row in table.rows],
    )


def difference_tables(gathered: Gathered) -> Iterator[Table]:
    """Yield the keys in which variants differ, and those in which settings do."""
    comparison = gathered.comparison
    shared = {**Config().to_flat(), **comparison.base}
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
