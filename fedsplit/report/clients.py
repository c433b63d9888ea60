"""Results of single clients: of one run, and of the runs of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fedsplit.drawing.axes import add_axes
from fedsplit.drawing.palette import MUTED, SERIES, SMALL
from fedsplit.report.gather import Gathered, RunRecord
from fedsplit.report.measures import estimate
from fedsplit.report.picture import Picture
from fedsplit.report.svg import new_figure, to_svg
from fedsplit.report.tables import Cell, Table, cell, exactly
from fedsplit.results.text import NOTHING, fixed

CLIENTS_TEXT = (
    "Each client scores the model on validation images of its own, which are not trained on."
)


@dataclass(frozen=True)
class ClientResult:
    """What one client has measured.

    Attributes
    ----------
    trained : int
        Rounds in which its training counts.
    failed : int
        Rounds in which it failed.
    last : Mapping[str, Mapping[str, float]]
        Phase (``train``, ``validation``) -> ``examples``, ``loss`` and ``accuracy`` in the last
        round in which it took part.
    """

    trained: int
    failed: int
    last: Mapping[str, Mapping[str, float]]


def results_of(record: RunRecord) -> dict[int, ClientResult]:
    """Return the results of each client; empty if the run kept none."""
    if not record.clients:
        return {}
    trained: dict[int, int] = {}
    last: dict[int, dict[str, Mapping[str, float]]] = {}
    for line in record.clients:
        for phase in ("train", "validation"):
            columns = dict(line.get(phase, {}))
            clients = columns.pop("clients", [])
            for place, client in enumerate(clients):
                values = {key: column[place] for key, column in columns.items()}
                last.setdefault(client, {})[phase] = values
                trained[client] = trained.get(client, 0) + (phase == "train")
    failed = [client for row in record.rounds for client in row["failed_clients"] or []]
    known = sorted({*last, *failed, *range(len(record.class_counts))})
    return {k: ClientResult(trained.get(k, 0), failed.count(k), last.get(k, {})) for k in known}


def validation_accuracies(record: RunRecord) -> list[float]:
    """Return the last validation accuracy of each client that has one."""
    found = results_of(record).values()
    return [
        result.last["validation"]["accuracy"] for result in found if "validation" in result.last
    ]


def client_table(record: RunRecord) -> Table | None:
    """Return a table with a row for each client; None if the run kept no results of clients."""
    header = ["client", "training images", "classes", "rounds trained", "failed"]
    columns = [
        ("train", "accuracy", "train accuracy"),
        ("train", "loss", "train loss"),
        ("validation", "accuracy", "validation accuracy"),
        ("validation", "loss", "validation loss"),
        ("validation", "examples", "validation images"),
    ]
    rows = []
    for client, result in results_of(record).items():
        counts = record.class_counts[client] if client < len(record.class_counts) else None
        row = [
            Cell(str(client)),
            Cell(NOTHING if counts is None else f"{sum(counts):,}"),
            Cell(NOTHING if counts is None else str(sum(count > 0 for count in counts))),
            Cell(str(result.trained)),
            Cell(str(result.failed)),
        ]
        for phase, key, _ in columns:
            row.append(_cell(result.last.get(phase, {}).get(key), count=key == "examples"))
        rows.append(row)
    if not rows:
        return None
    header += [name for _, _, name in columns]
    return Table("Each client, in the last round in which it took part", header, rows)


def _cell(value: float | None, *, count: bool) -> Cell:
    if value is None:
        return Cell(NOTHING)
    return Cell(f"{value:,.0f}" if count else fixed(value, 4), exactly(value))


def client_picture(record: RunRecord) -> Picture | None:
    """Draw the validation accuracy of each client; None if there is none."""
    scores = {
        client: result.last["validation"]["accuracy"]
        for client, result in results_of(record).items()
        if "validation" in result.last
    }
    if not scores:
        return None
    figure = new_figure(2.4)
    axes = add_axes(figure, left=0.42, right=0.1, top=0.35)
    axes.bar(list(scores), list(scores.values()), width=0.7, color=SERIES[2], alpha=0.35)
    # A mark, because a bar of height 0 would look like a client without validation images.
    axes.plot(
        list(scores), list(scores.values()), "o", color=SERIES[2], markersize=3, clip_on=False
    )
    mean = statistics.fmean(scores.values())
    axes.axhline(mean, color=MUTED, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set_title("validation accuracy", loc="left", fontsize=SMALL, color=MUTED, pad=8, x=-0.08)
    axes.set_xlabel("client", color=MUTED, fontsize=SMALL)
    axes.set_xlim(-0.6, max(scores) + 0.6)
    axes.set_ylim(0, min(1.0, max(*scores.values(), 0.1) * 1.1))
    every = 1 if len(scores) <= 20 else 5 * -(-len(scores) // 100)
    axes.set_xticks(range(0, max(scores) + 1, every))
    low, high = min(scores.values()), max(scores.values())
    caption = (
        f"Validation accuracy of each client: {low:.2f} to {high:.2f}. Dashed: the mean over "
        f"clients, {mean:.2f}"
    )
    return Picture(caption, to_svg(figure, "clients", caption))


def comparison_table(gathered: Gathered) -> Table | None:
    """Return the spread over the clients of each variant; None if no run kept their results."""
    seeds = len(gathered.comparison.seeds)
    kinds: dict[str, Callable[[list[float]], float]] = {
        "worst": min,
        "median": statistics.median,
        "best": max,
    }
    found = {
        (setting, label, kind): estimate(gathered.of(setting, label), partial(_over_clients, of=of))
        for setting in gathered.settings
        for label in gathered.comparison.variants
        for kind, of in kinds.items()
    }
    if not any(found.values()):
        return None
    header = [f"{setting} {kind}".strip() for setting in gathered.settings for kind in kinds]
    rows = [
        [
            Cell(label),
            *(
                cell(
                    found[setting, label, kind], partial(fixed, digits=3), zero=True, planned=seeds
                )
                for setting in gathered.settings
                for kind in kinds
            ),
        ]
        for label in gathered.comparison.variants
    ]
    return Table("Validation accuracy of the clients, last round", ["variant", *header], rows)


def _over_clients(record: RunRecord, *, of: Callable[[list[float]], float]) -> float | None:
    scores = validation_accuracies(record)
    return of(scores) if scores else None
