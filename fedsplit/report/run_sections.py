"""A single run's report as sections, and what stands at its top."""

from __future__ import annotations

from functools import partial

from fedsplit.report.bars import draw_stacks
from fedsplit.report.curves import draw_curves
from fedsplit.report.gather import RunRecord
from fedsplit.report.measures import Curve
from fedsplit.report.pictures import Picture, shard_picture, traffic
from fedsplit.report.sections import Facts, Section, counted
from fedsplit.report.tables import Cell, Show, Table, exactly
from fedsplit.results.summary import BYTE_KEYS, how_split
from fedsplit.results.text import NOTHING, duration, fixed, with_unit

_bytes: Show = partial(with_unit, unit="B")
_flops: Show = partial(with_unit, unit="FLOP")
_numbers: Show = partial(with_unit, unit="")
_four: Show = partial(fixed, digits=4)
_ROUND_COLUMNS: tuple[tuple[str, str, Show], ...] = (
    ("train loss", "train_loss", _four),
    ("test loss", "test_loss", _four),
    ("test accuracy", "test_accuracy", _four),
    ("validation accuracy", "validation_accuracy", _four),
    *((key.removesuffix("_bytes").replace("_", " "), key, _bytes) for key in BYTE_KEYS),
    ("time", "round_seconds", duration),
)
_SUMMARY_ROWS: tuple[tuple[str, str, Show], ...] = (
    ("final test accuracy", "final_accuracy", _four),
    ("best test accuracy", "best_accuracy", _four),
    ("test accuracy before training", "initial_accuracy", _four),
    *((f"{key.removesuffix('_bytes').replace('_', ' ')} bytes", key, _bytes) for key in BYTE_KEYS),
    ("client parameters", "client_parameters", _numbers),
    ("server parameters", "server_parameters", _numbers),
    ("client FLOPs per sample", "client_flops_per_sample", _flops),
    ("server FLOPs per sample", "server_flops_per_sample", _flops),
    ("client memory", "client_memory_bytes", _bytes),
    ("server memory", "server_memory_bytes", _bytes),
    ("training samples/s", "train_samples_per_second", partial(fixed, digits=0)),
    ("communication, measured", "communication_seconds", duration),
    ("communication, simulated", "simulated_communication_seconds", duration),
)


def run_facts(record: RunRecord) -> Facts:
    """Say what the run was, on what it ran, and how long it took."""
    summary = record.summary
    lead = (
        f"{summary['strategy']} ({how_split(summary)}), {summary['model']} on "
        f"{summary['dataset']} ({summary['partitioner']}), "
        f"{counted(summary['num_clients'], 'client')}, "
        f"{counted(summary['finished_rounds'], 'round')}, seed {summary['seed']}."
    )
    packages = ("fedsplit", "torch", "flwr")
    details = {
        "Versions": ", ".join(f"{name} {summary[f'{name}_version']}" for name in packages),
        "Time": f"{duration(summary['wall_seconds'])}, engine {summary['engine']}",
        "Failed clients": str(summary["failed_clients"]),
    }
    return Facts(lead, f"fedsplit run {record.directory / 'config.toml'}", details, "", {})


def run_sections(record: RunRecord, *, drawn: bool) -> list[Section]:
    """Return the sections of a run's report.

    Parameters
    ----------
    record : RunRecord
        The run.
    drawn : bool
        With pictures; without, its images are named.
    """
    return [
        Section(
            "Rounds",
            pictures=[_curves(record, measure) for measure in ("accuracy", "loss")]
            if drawn
            else [],
            images=[record.directory / "rounds.png"],
            tables=[_rounds(record)],
        ),
        Section(
            "Summary",
            "Bytes are exact serialized lengths, of all clients together.",
            pictures=[_traffic(record)] if drawn else [],
            tables=[_summary(record)],
        ),
        Section(
            "Shards",
            "Who holds what. A dot's area is the number of images." if record.class_counts else "",
            pictures=[_shards(record)] if drawn and record.class_counts else [],
            images=[record.directory / "shards.png"],
        ),
    ]


def _curves(record: RunRecord, measure: str) -> Picture:
    curves = []
    for number, data in enumerate(("test", "train", "validation")):
        points = [(row["round"], row[f"{data}_{measure}"]) for row in record.rounds]
        if data == "test":
            points.insert(0, (0, record.summary[f"initial_{measure}"]))
        kept = [(float(x), y) for x, y in points if y is not None]
        if kept:
            xs, ys = [x for x, _ in kept], [y for _, y in kept]
            curves.append(Curve(data, number, xs, ys, None))
    caption = f"{measure.capitalize()} by round"
    svg = draw_curves(curves, name=measure, alt=caption, along="round", unit=None, measure=measure)
    return Picture(caption, svg)


def _traffic(record: RunRecord) -> Picture:
    caption = "Bytes of all clients in the whole run"
    return Picture(
        caption, draw_stacks({"this run": traffic([record])}, name="traffic", alt=caption)
    )


def _shards(record: RunRecord) -> Picture:
    caption = "Training images of each client and class"
    return Picture(caption, shard_picture(record, name="shards", alt=caption))


def _rounds(record: RunRecord) -> Table:
    rows = [
        [
            Cell(str(row["round"])),
            *(_cell(row.get(key), show) for _, key, show in _ROUND_COLUMNS),
        ]
        for row in record.rounds
    ]
    return Table("Every round", ["round", *(name for name, _, _ in _ROUND_COLUMNS)], rows)


def _summary(record: RunRecord) -> Table:
    rows = [
        [Cell(name), _cell(record.summary[key], show)]
        for name, key, show in _SUMMARY_ROWS
        if record.summary.get(key) is not None
    ]
    return Table("The whole run", ["", "value"], rows)


def _cell(value: float | None, show: Show) -> Cell:
    return Cell(NOTHING) if value is None else Cell(show(value), exactly(value))
