"""A plan as tables for a terminal, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from fedsplit.names import printable
from fedsplit.plan.cuts import ModelPlan
from fedsplit.results.strict_json import dumps
from fedsplit.results.text import fixed, minutes, with_unit

WIDTH_COLUMNS = 80


def to_json(plan: ModelPlan) -> str:
    """Return a plan as a JSON object (docs/plan.md)."""
    setting = asdict(plan.setting)
    images = [plan.spec.channels, plan.spec.height, plan.spec.width]
    cuts = [asdict(cut) for cut in plan.cuts]
    return dumps({**setting, "image_shape": images, "cuts": cuts}, indent=2)


def plan_tables(plan: ModelPlan) -> str:
    """Return a plan as text of at most 80 columns: what each side holds, and what crosses."""
    setting = plan.setting
    speeds = f"{setting.client_gflops:g} GFLOP/s at the client, {setting.server_gflops:g} at the"
    file = StringIO()
    console = Console(file=file, width=WIDTH_COLUMNS, color_system=None, markup=False)
    console.print(_title(plan), soft_wrap=True)
    console.print(_sides(plan))
    console.print(_crossing(plan))
    console.print(
        "The cut is the number of stages on the client. FLOP: forward and backward, one sample. "
        "To train: parameters, gradients, Adam's state and activations of one step. Smashed and "
        "gradient: the tensors at the cut alone. Up and down: whole frames of a full step, divided "
        "by the batch size. Round: an estimate for one client, alone at the server, that trains on "
        f"{setting.samples_per_client} samples once and exchanges its weights; {speeds} server; "
        "computing and sending do not overlap."
    )
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _title(plan: ModelPlan) -> str:
    spec, setting = plan.spec, plan.setting
    return (
        f"{printable(setting.model)}, {setting.topology}, images {spec.channels}x{spec.height}x"
        f"{spec.width}, batch {setting.batch_size}, {setting.dtype}"
    )


def _sides(plan: ModelPlan) -> Table:
    table = _table(
        "\ncut",
        "client\nparams",
        "server\nparams",
        "client\nFLOP",
        "server\nFLOP",
        "client\nto train",
        "server\nto train",
    )
    table.add_column("last stage\non client", no_wrap=True, overflow="ellipsis")
    for cut in plan.cuts:
        table.add_row(
            f"{cut.cut_layer}",
            with_unit(cut.client_parameters, ""),
            with_unit(cut.server_parameters, ""),
            with_unit(cut.client_flops_per_sample, ""),
            with_unit(cut.server_flops_per_sample, ""),
            with_unit(cut.client_memory_bytes, "B"),
            with_unit(cut.server_memory_bytes, "B"),
            cut.last_client_stage,
        )
    return table


def _crossing(plan: ModelPlan) -> Table:
    names = [f"round\non {name}" for name in plan.setting.links]
    table = _table(
        "\ncut",
        "smashed\nper step",
        "gradient\nper step",
        "up per\nsample",
        "down per\nsample",
        "weights\nper round",
        *names,
    )
    for cut in plan.cuts:
        table.add_row(
            f"{cut.cut_layer}",
            with_unit(cut.smashed_bytes_per_step, "B"),
            with_unit(cut.cut_gradient_bytes_per_step, "B"),
            with_unit(cut.uplink_bytes_per_sample, "B"),
            with_unit(cut.downlink_bytes_per_sample, "B"),
            with_unit(cut.sync_bytes, "B"),
            *(seconds_text(seconds) for seconds in cut.round_seconds.values()),
        )
    return table


def seconds_text(seconds: float) -> str:
    """Return a duration: ``12.3 s``, or m:ss from 100 seconds on."""
    return f"{fixed(seconds, 1)} s" if seconds < 100 else minutes(seconds)


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table
