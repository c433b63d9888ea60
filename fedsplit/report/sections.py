"""The report of a comparison as sections of tables and pictures, and its header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedsplit.fields import FIELDS
from fedsplit.report import pictures, tables
from fedsplit.report.gather import Gathered
from fedsplit.report.pictures import Picture
from fedsplit.report.tables import Table
from fedsplit.results.summary import weights_of
from fedsplit.results.text import counted, duration

SHARDS_TEXT = "The images of each client. The area of a dot is the number of images."


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes
    ----------
    title, text : str
        Its heading, and what to know before reading it.
    pictures : Sequence[Picture]
        The pictures of the page. They come first.
    images : Sequence[Path]
        Files beside the report that Markdown shows instead.
    tables : Sequence[Table]
        The tables. They come last.
    """

    title: str
    text: str = ""
    pictures: Sequence[Picture] = field(default_factory=list)
    images: Sequence[Path] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The anchor of the section."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Header:
    """The header of a report.

    Attributes
    ----------
    lead : str
        What was compared, in a sentence.
    command : str
        The command that made it.
    details : dict[str, str]
        Name -> value.
    how_to_read : str
        What the numbers mean.
    failed : dict[str, str]
        Directory of a run -> why it failed.
    """

    lead: str
    command: str
    details: dict[str, str]
    how_to_read: str
    failed: dict[str, str]


def header_of(gathered: Gathered) -> Header:
    """Return what was compared and how, the versions used, and how long it took."""
    comparison, records = gathered.comparison, list(gathered.finished.values())
    lead = counted(len(comparison.variants), "variant")
    if len(gathered.settings) > 1:
        lead += f" in {counted(len(gathered.settings), 'setting')} ({', '.join(gathered.settings)})"
    lead += f", {counted(len(comparison.seeds), 'seed')}: {counted(len(comparison.runs), 'run')}"
    left = len(comparison.runs) - len(records) - len(gathered.failed)
    lead += f", {left} of them not made yet." if left else "."
    details = {}
    for key in ("model", "dataset", "num_clients", "num_rounds"):
        if found := list(dict.fromkeys(str(record.summary[key]) for record in records)):
            details[FIELDS[key].label.capitalize()] = ", ".join(found)
    if found := list(dict.fromkeys(weights_of(record.summary) for record in records)):
        details["Weights"] = ", ".join(found)
    details["Seeds"] = ", ".join(map(str, comparison.seeds))
    shared = (f"{key} = {value}" for key, value in comparison.base.items())
    details["All runs share"] = ", ".join(shared) or "the defaults"
    details["Versions"] = ", ".join(
        f"{package} {' and '.join(found)}"
        for package in ("fedsplit", "torch", "flwr")
        if (found := sorted({str(record.summary[f"{package}_version"]) for record in records}))
    )
    details["Time"] = (
        f"{duration(comparison.wall_seconds)} in all, {counted(comparison.jobs, 'run')} "
        f"at a time, engine {', '.join(sorted({str(r.summary['engine']) for r in records}))}"
    )
    n = len(comparison.seeds)
    how = (
        f"Numbers are means over the seeds, ± the sample standard deviation (n = {n}; divided by "
        "n - 1)."
        if n > 1
        else "There is one seed: no deviation can be shown, and small differences mean nothing."
    )
    if len(records) < len(comparison.runs):
        how += " Where runs are missing, the numbers are those of the runs that have finished."
    how += " The exact value of each seed is in the tooltip of a cell and in results.csv."
    return Header(lead, comparison.command, details, how, gathered.failed)


def sections_of(gathered: Gathered, *, drawn: bool) -> list[Section]:
    """Return the sections of a comparison's report.

    Parameters
    ----------
    gathered : Gathered
        The comparison.
    drawn : bool
        Whether pictures are drawn.
    """
    silent = _silent(gathered)
    apart = (
        "Bytes of all clients together, both ways: at the cut, and for synchronising the model. "
        "They are exact serialized lengths. Federated evaluation is counted separately and is not "
        "in the curves."
    )
    if silent:
        apart += (
            f" {silent} trains where all images are: it would move the images instead, and sends "
            "bytes only for evaluation. Its line is level, at its last accuracy."
        )
    return [
        Section(
            "Accuracy",
            "Measured on the test images, with the model as it is after each round.",
            list(pictures.accuracy(gathered, pictures.BY_ROUND)) if drawn else [],
            tables=[tables.accuracy_table(gathered)],
        ),
        Section(
            "Traffic",
            apart,
            [*pictures.accuracy(gathered, pictures.BY_BYTES), *pictures.by_direction(gathered)]
            if drawn
            else [],
            tables=tables.traffic_tables(gathered),
        ),
        Section(
            "Client and server",
            "What each side holds and computes. FLOPs cover the forward and the backward pass that "
            "the algorithm needs; those of all clients cover training in all rounds.",
            [*pictures.accuracy(gathered, pictures.BY_CLIENT_FLOPS), *pictures.sides(gathered)]
            if drawn
            else [],
            tables=tables.side_tables(gathered),
        ),
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
            "Shards",
            SHARDS_TEXT,
            list(pictures.shards(gathered)) if drawn else [],
        ),
        Section(
            "What differs",
            "All other keys are the same in all runs.",
            tables=list(tables.difference_tables(gathered)),
        ),
    ]


def _silent(gathered: Gathered) -> str:
    """Return the labels of the variants that send nothing for training."""
    labels = dict.fromkeys(
        run.label
        for run, record in gathered.finished.items()
        if record.summary["strategy"] == "centralized"
    )
    return ", ".join(labels)
