"""The report of a comparison as sections of pictures and tables."""

from __future__ import annotations

from fedsplit.report import against, clients, pictures, scores, tables
from fedsplit.report.gather import Gathered
from fedsplit.report.page import Section
from fedsplit.report.picture import Picture
from fedsplit.results.text import counted

SHARDS_TEXT = (
    "The training images of each client, above in all, below of each class. The stronger the "
    "colour of a cell, the more images."
)


def sections_of(gathered: Gathered, *, drawn: bool) -> list[Section]:
    """Return the sections of a comparison's report.

    Parameters
    ----------
    gathered : Gathered
        The comparison.
    drawn : bool
        Whether pictures are drawn.
    """
    nothing: list[Picture] = []
    return [
        Section(
            "Accuracy",
            "Measured on the test images, with the model as it is after each round.",
            list(pictures.accuracy(gathered, pictures.BY_ROUND)) if drawn else nothing,
            tables=[
                *against.tables(gathered),
                scores.accuracy_table(gathered),
                *scores.by_round_tables(gathered),
            ],
        ),
        Section(
            "Traffic",
            _about_traffic(gathered),
            [*pictures.accuracy(gathered, pictures.BY_BYTES), *pictures.by_direction(gathered)]
            if drawn
            else nothing,
            tables=tables.traffic_tables(gathered),
        ),
        Section(
            "Client and server",
            "What each side holds and computes. FLOPs cover the forward and the backward pass that "
            "the algorithm needs; those of all clients cover training in all rounds.",
            [*pictures.accuracy(gathered, pictures.BY_CLIENT_FLOPS), *pictures.sides(gathered)]
            if drawn
            else nothing,
            tables=tables.side_tables(gathered),
        ),
        *_tables_only(gathered),
        Section("Shards", SHARDS_TEXT, list(pictures.shards(gathered)) if drawn else nothing),
        Section(
            "What differs",
            "All other keys are the same in all runs.",
            tables=list(tables.difference_tables(gathered)),
        ),
    ]


def _tables_only(gathered: Gathered) -> list[Section]:
    """Return the sections that no picture goes with."""
    of_clients = clients.comparison_table(gathered)
    return [
        Section(
            "Time",
            f"Wall time on one machine, with {counted(gathered.comparison.jobs, 'run')} at a "
            "time. Compare it only within this report.",
            tables=tables.time_tables(gathered),
        ),
        Section(
            "Metrics",
            "What strategies and rules measure beside the built-in fields. Each metric declares "
            "how it is aggregated over clients and rounds: summary.json has the declarations.",
            tables=tables.metric_tables(gathered),
        ),
        Section(
            "Classes",
            "The test images after the last round, by their class.",
            tables=list(scores.class_tables(gathered)),
        ),
        Section(
            "Clients",
            f"{clients.CLIENTS_TEXT} The worst, the median and the best client of each run, as "
            "means over seeds.",
            tables=[of_clients] if of_clients else [],
        ),
    ]


def _about_traffic(gathered: Gathered) -> str:
    silent = _silent(gathered)
    about = (
        "Bytes of all clients together, both ways: at the cut, and for synchronising the model. "
        "They are exact serialized lengths. Federated evaluation is counted separately and is not "
        "in the curves."
    )
    if silent:
        about += (
            f" {silent} trains where all images are: it would move the images instead, and sends "
            "bytes only for evaluation. Its line is level, at its last accuracy."
        )
    return about


def _silent(gathered: Gathered) -> str:
    """Return the labels of the variants that send nothing for training."""
    labels = dict.fromkeys(
        run.label
        for run, record in gathered.finished.items()
        if record.summary["strategy"] == "centralized"
    )
    return ", ".join(labels)
