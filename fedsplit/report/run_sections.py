"""The report of a single run as sections, and its header."""

from __future__ import annotations

from fedsplit.fields import BYTE_KEYS, Field, fields_shown_in
from fedsplit.report.bars import draw_stacks
from fedsplit.report.classes import class_sections
from fedsplit.report.curves import draw_curves
from fedsplit.report.gather import RunRecord
from fedsplit.report.measures import Curve
from fedsplit.report.pictures import Picture, shard_picture, traffic
from fedsplit.report.sections import SHARDS_TEXT, Header, Section
from fedsplit.report.tables import Cell, Table, exactly
from fedsplit.results.summary import SCORED_DATA, scores_by_round, weights_of, what_ran
from fedsplit.results.text import NOTHING, counted, duration, shown


def run_header(record: RunRecord) -> Header:
    """Return what the run was, the versions it used, and how long it took."""
    summary = record.summary
    done, asked = summary["finished_rounds"], summary["num_rounds"]
    rounds = counted(done, "round") if done == asked else f"{done} of {asked} rounds"
    lead = what_ran(summary, rounds=rounds) + "."
    if summary["stopped_early"]:
        lead += " It ended early, because its score had not improved for as long as patience says."
    elif done < asked:
        lead += " The run has not finished: this is what it has done so far."
    packages = ("fedsplit", "torch", "flwr")
    details = {
        "Weights": weights_of(summary),
        "Versions": ", ".join(f"{name} {summary[f'{name}_version']}" for name in packages),
        "Time": f"{duration(summary['wall_seconds'])}, engine {summary['engine']}",
        "Failed clients": str(summary["failed_clients"]),
    }
    return Header(lead, f"fedsplit run {record.directory / 'config.toml'}", details, "", {})


def run_sections(record: RunRecord, *, drawn: bool) -> list[Section]:
    """Return the sections of the report of a run.

    Parameters
    ----------
    record : RunRecord
        The run.
    drawn : bool
        Whether pictures are drawn. If not, the image files of the run directory are named.
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
        *class_sections(record, drawn=drawn),
        Section(
            "Shards",
            SHARDS_TEXT if record.class_counts else "",
            pictures=[_shards(record)] if drawn and record.class_counts else [],
            images=[record.directory / "shards.png"],
        ),
    ]


def _curves(record: RunRecord, measure: str) -> Picture:
    found = scores_by_round(record.rounds, record.summary, measure)
    curves = [
        Curve(data, number, [float(x) for x, _ in points], [y for _, y in points], None)
        for number, data in enumerate(SCORED_DATA)
        if (points := found.get(data))
    ]
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
    fields = [*fields_shown_in("rounds"), *record.metrics]
    rows = [[_cell(row.get(field.key), field) for field in fields] for row in record.rounds]
    return Table("Every round", [field.label for field in fields], rows)


def _summary(record: RunRecord) -> Table:
    # Scores come first, then bytes: people look for them.
    built_in = sorted(
        fields_shown_in("summary"),
        key=lambda field: (field.form != "score", field.key not in BYTE_KEYS),
    )
    metrics = [metric for metric in record.metrics if metric.over_rounds != "none"]
    rows = [
        [Cell(field.label), _cell(value, field)]
        for field in (*built_in, *metrics)
        if (value := record.summary.get(field.key)) is not None
    ]
    return Table("The whole run", ["", "value"], rows)


def _cell(value: float | None, field: Field) -> Cell:
    return Cell(NOTHING) if value is None else Cell(shown(field, value), exactly(value))
