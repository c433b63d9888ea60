"""A plan as tables for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from fedsplit.names import printable
from fedsplit.plan.cuts import CutPlan, ModelPlan
from fedsplit.results.strict_json import dumps
from fedsplit.results.text import fixed, minutes, with_unit

WIDTH_COLUMNS = 80
_SIZES = (
    "\ncut",
    "smashed\nper step",
    "gradient\nper step",
    "up per\nsample",
    "down per\nsample",
    "weights\nper round",
)


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
    for table in _crossing(plan):
        console.print(table)
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


def _crossing(plan: ModelPlan) -> list[Table]:
    """Return what crosses and how long a round takes: in two tables, if one would be too wide."""
    names = [f"round\non {name}" for name in plan.setting.links]
    sizes = [[f"{cut.cut_layer}", *_sizes(cut)] for cut in plan.cuts]
    times = [list(map(seconds_text, cut.round_seconds.values())) for cut in plan.cuts]
    together = _filled(
        [*_SIZES, *names], [size + time for size, time in zip(sizes, times, strict=True)]
    )
    if Console(width=10 * WIDTH_COLUMNS).measure(together).maximum <= WIDTH_COLUMNS:
        return [together]
    own = [[size[0], *time] for size, time in zip(sizes, times, strict=True)]
    return [_filled(_SIZES, sizes), _filled(["\ncut", *names], own)]


def _sizes(cut: CutPlan) -> Iterator[str]:
    for size in (
        cut.smashed_bytes_per_step,
        cut.cut_gradient_bytes_per_step,
        cut.uplink_bytes_per_sample,
        cut.downlink_bytes_per_sample,
        cut.sync_bytes,
    ):
        yield with_unit(size, "B")


def _filled(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = _table(*names)
    for row in rows:
        table.add_row(*row)
    return table


def seconds_text(seconds: float) -> str:
    """Return a duration: ``12.3 s``, or m:ss from 100 seconds on."""
    return f"{fixed(seconds, 1)} s" if seconds < 100 else minutes(seconds)


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table
