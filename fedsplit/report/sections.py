"""A comparison's report as sections of tables and pictures, and what stands at its top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedsplit.report import pictures, tables
from fedsplit.report.gather import Gathered
from fedsplit.report.pictures import Picture
from fedsplit.report.tables import Table
from fedsplit.results.text import duration


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes
    ----------
    title, text : str
        Its heading, and what to know before reading it.
    pictures : Sequence[Picture]
        Come first.
    images : Sequence[Path]
        Files beside the report that show the same, for Markdown.
    tables : Sequence[Table]
        Come after them.
    """

    title: str
    text: str = ""
    pictures: Sequence[Picture] = field(default_factory=list)
    images: Sequence[Path] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its anchor."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Facts:
    """What stands at the top.

    Attributes
    ----------
    lead : str
        What was compared, in a sentence.
    command : str
        What made it.
    details : dict[str, str]
        Name -> value.
    how_to_read : str
        What the numbers are.
    failed : dict[str, str]
        Directory of a run -> why it failed.
    """

    lead: str
    command: str
    details: dict[str, str]
    how_to_read: str
    failed: dict[str, str]


def facts_of(gathered: Gathered) -> Facts:
    """Say what was compared, how, on what, and how long it took."""
    comparison, records = gathered.comparison, list(gathered.finished.values())
    lead = counted(len(comparison.variants), "variant")
    if len(gathered.settings) > 1:
        lead += f" in {counted(len(gathered.settings), 'setting')} ({', '.join(gathered.settings)})"
    lead += f", {counted(len(comparison.seeds), 'seed')}: {counted(len(comparison.runs), 'run')}"
    left = len(comparison.runs) - len(records) - len(gathered.failed)
    lead += f", of which {left} have not been made yet." if left else "."
    details = {}
    for name, key in (
        ("Model", "model"),
        ("Data", "dataset"),
        ("Clients", "num_clients"),
        ("Rounds", "num_rounds"),
    ):
        if found := list(dict.fromkeys(str(record.summary[key]) for record in records)):
            details[name] = ", ".join(found)
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
        else "One seed: there is no deviation to show, and small differences mean nothing."
    )
    if len(records) < len(comparison.runs):
        how += " Where runs are missing, they are of those that there are."
    how += " The exact values of each seed stand in a cell's tooltip and in results.csv."
    return Facts(lead, comparison.command, details, how, gathered.failed)


def sections_of(gathered: Gathered, *, drawn: bool) -> list[Section]:
    """Return the sections of a comparison's report.

    Parameters
    ----------
    gathered : Gathered
        The comparison.
    drawn : bool
        With pictures.
    """
    silent = _silent(gathered)
    apart = (
        "Sent by all clients together, both ways: at the cut, and for synchronising the model. "
        "Bytes are exact serialized lengths. Federated evaluation is counted apart, and is not in "
        "the curves."
    )
    if silent:
        apart += (
            f" {silent} trains where all images are: it moves the images instead, and sends "
            "nothing but for evaluation. Its line is level, at its last accuracy."
        )
    return [
        Section(
            "Accuracy",
            "On the test images, of the model as it stands after each round.",
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
            "What each side holds and computes. FLOPs are of forward and backward pass, as the "
            "algorithm needs them; those of all clients are of training, over all rounds.",
            [*pictures.accuracy(gathered, pictures.BY_CLIENT_FLOPS), *pictures.sides(gathered)]
            if drawn
            else [],
            tables=tables.side_tables(gathered),
        ),
        Section(
            "Time",
            f"Wall time on one machine, with {counted(gathered.comparison.jobs, 'run')} at a "
            "time: compare it within this report only.",
            tables=tables.time_tables(gathered),
        ),
        Section(
            "Shards",
            "Who holds what. A dot's area is the number of images.",
            list(pictures.shards(gathered)) if drawn else [],
        ),
        Section(
            "What differs",
            "Keys that are not here are the same in all runs.",
            tables=list(tables.difference_tables(gathered)),
        ),
    ]


def _silent(gathered: Gathered) -> str:
    """Name the variants that send nothing for training."""
    labels = dict.fromkeys(
        run.label
        for run, record in gathered.finished.items()
        if record.summary["strategy"] == "centralized"
    )
    return ", ".join(labels)


def counted(number: int, thing: str) -> str:
    """Return a number of things, with an s where it belongs."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
