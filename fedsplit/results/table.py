"""The results of a run as text, for the end of its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from fedsplit.names import printable
from fedsplit.results.summary import BYTE_KEYS, how_split
from fedsplit.results.text import NOTHING, fixed, minutes, with_unit

WIDTH_COLUMNS = 100
_ALL_ROUNDS_UP_TO = 15
_LABEL_COLUMNS = 16

Row = Mapping[str, Any]


def results_table(rows: Sequence[Row], summary: Mapping[str, Any]) -> str:
    """Return the results of a run as lines of at most 100 columns.

    Only the run directory's path, which has to stay in one piece, may be longer.

    Parameters
    ----------
    rows : Sequence[Row]
        The rounds (see `fedsplit.results.recorder.ROW_KEYS`). Of more than 15, some are shown:
        the first, the best, the last, and evenly spaced ones.
    summary : Mapping[str, Any]
        The run's summary (see `fedsplit.results.summary.summarise`).
    """
    shown = _shown(rows, summary["best_round"])
    parts: list[RenderableType] = [_title(summary)]
    parts += [_rounds(shown, summary)] if shown else [""]
    lines = "\n".join(_text(part) for part in [*parts, _block(summary)])
    return f"{lines}\n  {'Run directory':{_LABEL_COLUMNS}} {printable(summary['run_directory'])}"


def _shown(rows: Sequence[Row], best_round: int | None) -> list[Row]:
    if len(rows) <= _ALL_ROUNDS_UP_TO:
        return list(rows)
    every = next(
        step * 10**power
        for power in range(1000)
        for step in (1, 2, 5)
        if len(rows) / (step * 10**power) <= _ALL_ROUNDS_UP_TO - 3
    )
    ends = {rows[0]["round"], best_round, rows[-1]["round"]}
    return [row for row in rows if row["round"] in ends or row["round"] % every == 0]


def _rounds(rows: Sequence[Row], summary: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    names = ["\nround", "train\nloss", "test\nloss", "test\naccuracy", "val\naccuracy"]
    names += ["clients\nfailed"]
    split = summary["cut_layer"] is not None
    names += ["cut\nup", "cut\ndown"] if split else []
    for name in [*names, "sync\nup", "sync\ndown", "\ntime"]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        best = row["round"] == summary["best_round"]
        table.add_row(
            f"{row['round']}",
            fixed(row["train_loss"], 4),
            fixed(row["test_loss"], 4),
            fixed(row["test_accuracy"], 4) + ("*" if best else " "),
            fixed(row["validation_accuracy"], 4),
            f"{len(row['failed_clients'])}",
            *([_bytes(row, "cut_uplink"), _bytes(row, "cut_downlink")] if split else []),
            _bytes(row, "sync_uplink"),
            _bytes(row, "sync_downlink"),
            _seconds(row["round_seconds"]),
        )
    return table


def _block(summary: Mapping[str, Any]) -> Table:
    block = Table.grid(padding=(0, 1, 0, 0))
    block.add_column(width=1)
    block.add_column(no_wrap=True, width=_LABEL_COLUMNS)
    block.add_column(overflow="fold")
    block.add_row("", "Test accuracy", _accuracy(summary))
    traffic = {key: with_unit(summary[key], "B") for key in BYTE_KEYS}
    for label, purpose in (
        ("Cut traffic", "cut"),
        ("Evaluation", "evaluate"),
        ("Synchronisation", "sync"),
    ):
        if summary["cut_layer"] is not None or purpose == "sync":
            up, down = traffic[f"{purpose}_uplink_bytes"], traffic[f"{purpose}_downlink_bytes"]
            block.add_row("", label, f"{up} up, {down} down")
    if summary["network_profile"] is not None:
        block.add_row("", "Communication", _communication(summary))
    block.add_row("", "Client", _side(summary, "client"))
    block.add_row("", "Server", _side(summary, "server"))
    speed = summary["train_samples_per_second"]
    of_training = "" if speed is None else f", {speed:,.0f} training samples/s"
    for_each = summary["seconds_per_client_round"]
    of_training += "" if for_each is None else f", {1000 * for_each:,.0f} ms per client-round"
    block.add_row("", "Time", _seconds(summary["wall_seconds"]) + of_training)
    return block


def _title(summary: Mapping[str, Any]) -> str:
    rounds = _counted(summary["num_rounds"], "round")
    if summary["finished_rounds"] != summary["num_rounds"]:
        rounds = f"{summary['finished_rounds']} of {rounds}"
    return (
        f"{summary['strategy']} ({how_split(summary)}), {printable(summary['model'])} on "
        f"{printable(summary['dataset'])} ({summary['partitioner']}), "
        f"{_counted(summary['num_clients'], 'client')}, {rounds}, seed {summary['seed']}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _accuracy(summary: Mapping[str, Any]) -> str:
    text = f"{fixed(summary['final_accuracy'], 4)} final"
    if summary["best_round"] is not None:
        text += f", {fixed(summary['best_accuracy'], 4)} best (round {summary['best_round']})"
    if summary["initial_accuracy"] is not None:
        text += f", {fixed(summary['initial_accuracy'], 4)} before training"
    return text


def _communication(summary: Mapping[str, Any]) -> str:
    simulated = _seconds(summary["simulated_communication_seconds"])
    text = f"{simulated} simulated on {summary['network_profile']}"
    if summary["communication_seconds"] is not None:
        text += f", {_seconds(summary['communication_seconds'])} measured here without server time"
    return text


def _side(summary: Mapping[str, Any], side: str) -> str:
    parameters, flops = summary[f"{side}_parameters"], summary[f"{side}_flops_per_sample"]
    memory = with_unit(summary[f"{side}_memory_bytes"], "B")
    if not parameters and not flops:
        return "holds no part of the model"
    work = f"{with_unit(flops, 'FLOP')} per training sample"
    return f"{parameters:,} parameters, {work}, {memory} to train"


def _bytes(row: Row, purpose_and_direction: str) -> str:
    return with_unit(row[f"{purpose_and_direction}_bytes"], "B")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:.1f} s" if seconds < 60 else minutes(seconds)


def _text(part: RenderableType) -> str:
    file = StringIO()
    console = Console(
        file=file,
        width=WIDTH_COLUMNS,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # where rich would show it at once, and write nothing into the file
        markup=False,
    )
    console.print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
