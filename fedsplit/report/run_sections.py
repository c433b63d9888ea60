"""The report of a single run as sections."""

from __future__ import annotations

from fedsplit.drawing.axes import add_axes
from fedsplit.fields import BYTE_KEYS, BuiltIn, Field, fields_shown_in
from fedsplit.report.classes import class_sections
from fedsplit.report.clients import CLIENTS_TEXT, client_picture, client_table
from fedsplit.report.curves import draw_run
from fedsplit.report.gather import RunRecord
from fedsplit.report.page import Section
from fedsplit.report.picture import Picture
from fedsplit.report.pictures import shard_picture
from fedsplit.report.sections import SHARDS_TEXT
from fedsplit.report.svg import new_figure, to_svg
from fedsplit.report.tables import Cell, Table, exactly
from fedsplit.results.plots import TRAFFIC_TITLE, draw_traffic, traffic_shown
from fedsplit.results.text import NOTHING, shown


def run_sections(record: RunRecord, *, drawn: bool) -> list[Section]:
    """Return the sections of the report of a run.

    Parameters
    ----------
    record : RunRecord
        The run.
    drawn : bool
        Whether pictures are drawn. If not, the image files of the run directory are named.
    """
    bars = client_picture(record) if drawn else None
    of_clients = client_table(record)
    return [
        Section(
            "Rounds",
            pictures=[draw_run(record, measure) for measure in ("accuracy", "loss")]
            if drawn
            else [],
            images=[record.directory / "rounds.png"],
            tables=[_rounds(record)],
        ),
        Section(
            "Traffic",
            "Bytes are exact serialized lengths, of all clients together.",
            pictures=[_traffic(record)] if drawn else [],
        ),
        Section("Summary", tables=[_summary(record)]),
        *class_sections(record, drawn=drawn),
        Section(
            "Clients",
            CLIENTS_TEXT if of_clients else "",
            pictures=[bars] if bars else [],
            tables=[of_clients] if of_clients else [],
        ),
        Section(
            "Shards",
            SHARDS_TEXT if record.class_counts else "",
            pictures=[_shards(record)] if drawn and record.class_counts else [],
            images=[record.directory / "shards.png"],
        ),
    ]


def _traffic(record: RunRecord) -> Picture:
    figure = new_figure(0.1 + 0.42 * len(traffic_shown(record.summary)))
    draw_traffic(add_axes(figure, left=0.05, right=0.05, bottom=0.05, top=0.05), record.summary)
    return Picture(TRAFFIC_TITLE, to_svg(figure, "traffic", TRAFFIC_TITLE))


def _shards(record: RunRecord) -> Picture:
    caption = "Training images of each client and class"
    return Picture(caption, shard_picture(record, name="shards", alt=caption))


def _rounds(record: RunRecord) -> Table:
    number, *built_in = fields_shown_in("rounds")
    shown_first = [field for field in built_in if field.form == "score"]
    others = [field for field in built_in if field.form != "score"]
    measured = [
        field
        for field in (*shown_first, *record.metrics, *others)
        if any(_applies(row.get(field.key), field) for row in record.rounds)
    ]
    fields: list[Field] = [number, *measured]
    rows = [[_cell(row.get(field.key), field) for field in fields] for row in record.rounds]
    return Table("Every round", [field.label for field in fields], rows)


def _applies(value: float | None, field: Field) -> bool:
    """Whether a value says something: bytes that do not apply are 0, a score of 0 is a score."""
    measured = not isinstance(field, BuiltIn) or field.form == "score"
    return value is not None if measured else bool(value)


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
