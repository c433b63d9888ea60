"""The results of a run as text, for the end of its log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from fedsplit.fields import FIELDS, Purpose, declared_in, traffic_fields
from fedsplit.names import printable
from fedsplit.results.summary import what_ran
from fedsplit.results.text import counted, duration, fixed, shown

WIDTH_COLUMNS = 80
_LABEL_COLUMNS = 16
_PURPOSES: Mapping[str, Purpose] = {
    "Cut traffic": "cut",
    "Evaluation": "evaluate",
    "Synchronisation": "sync",
}
_OVER_ROUNDS = {"last": "last round", "mean": "mean over rounds", "sum": "sum over rounds"}


def results_table(summary: Mapping[str, Any]) -> str:
    """Return the results of a run as lines of at most 80 columns, for the end of its log.

    Only the path of the run directory may be longer, because it must stay in one piece.

    Parameters
    ----------
    summary : Mapping[str, Any]
        The run's summary (see `fedsplit.results.summary.summarise`).
    """
    title = what_ran(summary, rounds=rounds_of(summary))
    lines = "\n".join(_text(part) for part in ("", title, "", _block(summary)))
    return f"{lines}\n  {'Run directory':{_LABEL_COLUMNS}} {printable(summary['run_directory'])}"


def faults_of(summary: Mapping[str, Any]) -> list[str]:
    """Return what must not be overlooked in the results: that the training has diverged."""
    loss, before = summary["final_loss"], summary["initial_loss"]
    if not summary["finished_rounds"] or before is None:
        return []
    remedy = "Try a lower learning-rate, warmup-rounds, or clip-norm."
    if loss is None:
        return [f"The training has diverged: the last test loss is not a finite number. {remedy}"]
    if loss > before and summary["final_accuracy"] <= summary["initial_accuracy"]:
        return [
            f"The training has diverged: the test loss is {fixed(loss, 4)} after the last round, "
            f"and was {fixed(before, 4)} before training. {remedy}"
        ]
    return []


def _block(summary: Mapping[str, Any]) -> Table:
    block = Table.grid(padding=(0, 1, 0, 0))
    block.add_column(width=1)
    block.add_column(no_wrap=True, width=_LABEL_COLUMNS)
    block.add_column(overflow="fold")
    block.add_row("", "Test accuracy", _accuracy(summary))
    for label, purpose in _PURPOSES.items():
        if summary["cut_layer"] is not None or purpose == "sync":
            up, down = (shown(field, summary[field.key]) for field in traffic_fields(purpose))
            block.add_row("", label, f"{up} up, {down} down")
    if summary["network_profile"] is not None:
        block.add_row("", "Communication", _communication(summary))
    block.add_row("", "Client", _side(summary, "client"))
    block.add_row("", "Server", _side(summary, "server"))
    speed = summary["train_samples_per_second"]
    of_training = "" if speed is None else f", {speed:,.0f} training samples/s"
    for_each = summary["seconds_per_client_round"]
    of_training += "" if for_each is None else f", {1000 * for_each:,.0f} ms per client-round"
    block.add_row("", "Time", duration(summary["wall_seconds"]) + of_training)
    for number, line in enumerate(_metrics(summary)):
        block.add_row("", "" if number else "Metrics", line)
    return block


def rounds_of(summary: Mapping[str, Any]) -> str:
    """Say how many rounds a run had, in words."""
    rounds = counted(summary["num_rounds"], "round")
    if summary["finished_rounds"] != summary["num_rounds"]:
        rounds = f"{summary['finished_rounds']} of {rounds}"
        rounds += " (stopped early)" if summary["stopped_early"] else ""
    return rounds


def _accuracy(summary: Mapping[str, Any]) -> str:
    text = f"{fixed(summary['final_accuracy'], 4)} final"
    if summary["best_round"] is not None:
        text += f", {fixed(summary['best_accuracy'], 4)} best (round {summary['best_round']})"
    if summary["initial_accuracy"] is not None:
        text += f", {fixed(summary['initial_accuracy'], 4)} before training"
    return text


def _communication(summary: Mapping[str, Any]) -> str:
    simulated = duration(summary["simulated_communication_seconds"])
    text = f"{simulated} simulated on {summary['network_profile']}"
    if summary["communication_seconds"] is not None:
        measured = duration(summary["communication_seconds"])
        text += f", {measured} measured here without server time"
    return text


def _side(summary: Mapping[str, Any], side: str) -> str:
    parameters = summary[f"{side}_parameters"]
    flops, memory = FIELDS[f"{side}_flops_per_sample"], FIELDS[f"{side}_memory_bytes"]
    if not parameters and not summary[flops.key]:
        return "holds no part of the model"
    work = f"{shown(flops, summary[flops.key])} a sample"
    return f"{parameters:,} parameters, {work}, {shown(memory, summary[memory.key])} to train"


def _metrics(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each declared metric that the summary has."""
    for metric in declared_in(summary):
        if metric.over_rounds != "none":
            value = shown(metric, summary[metric.key])
            yield f"{metric.label}: {value} ({_OVER_ROUNDS[metric.over_rounds]})"


def _text(part: RenderableType) -> str:
    file = StringIO()
    console = Console(
        file=file,
        width=WIDTH_COLUMNS,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # Jupyter would show the text and leave the file empty
        markup=False,
        emoji=False,  # a label may hold :warning:
    )
    console.print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
