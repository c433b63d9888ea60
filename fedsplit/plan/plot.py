"""The picture of a plan: how costs move from the server to the client with the cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsplit.drawing.axes import new_figure, style
from fedsplit.drawing.palette import DOWNLINK, INK, MUTED, SMALL, UPLINK, looks
from fedsplit.errors import ConfigError
from fedsplit.names import printable
from fedsplit.plan.cuts import CutPlan, ModelPlan
from fedsplit.results.text import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check_picture(path: Path) -> None:
    """Refuse a file that cannot be drawn, before anything is computed.

    Raises
    ------
    ConfigError
        If its suffix is not a picture format, or its folder does not exist.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kinds = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in kinds:
        raise ConfigError(f"--plot '{path}' must end with a picture format: .{', .'.join(kinds)}.")
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(
            f"--plot '{path}' cannot be written: give a file in a folder that exists."
        )


def plot_plan(plan: ModelPlan, path: Path) -> None:
    """Draw a plan.

    Parameters
    ----------
    plan : ModelPlan
        The plan of a model.
    path : Path
        The file to write. Its suffix decides the format.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    figure = new_figure(13.5, 4.4)
    share, traffic, time = figure.subplots(1, 3, gridspec_kw={"wspace": 0.27})
    figure.subplots_adjust(left=0.045, right=0.98, top=0.76, bottom=0.13)
    setting, spec = plan.setting, plan.spec
    title = f"{printable(setting.model)} by cut, {setting.topology}"
    figure.text(0.045, 0.93, title, fontsize=14, color=INK, weight="bold", parse_math=False)
    figure.text(
        0.045,
        0.868,
        f"images {spec.channels}x{spec.height}x{spec.width}, batch {setting.batch_size}, "
        f"{setting.dtype}; a round is {setting.samples_per_client} samples of one client, "
        f"{setting.client_gflops:g} GFLOP/s at the client, {setting.server_gflops:g} at the server",
        fontsize=10,
        color=MUTED,
    )
    _shares(share, plan.cuts)
    _traffic(traffic, plan.cuts)
    _times(time, plan)
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"--plot '{path}' cannot be written: {error}.") from None


def _shares(axes: Axes, cuts: Sequence[CutPlan]) -> None:
    style(axes, "Share of the client, %")
    measures = {"parameters": "parameters", "FLOPs": "flops_per_sample", "memory": "memory_bytes"}
    # From wide to narrow lines, because they often cover each other.
    for number, ((name, measure), width) in enumerate(
        zip(measures.items(), (4.5, 2.75, 1.25), strict=True)
    ):
        pairs = [(getattr(c, f"client_{measure}"), getattr(c, f"server_{measure}")) for c in cuts]
        shares = [100 * client / (client + server) for client, server in pairs]
        _line(axes, cuts, shares, name, number, width)
    axes.set_ylim(0, 100)
    _legend(axes)


def _traffic(axes: Axes, cuts: Sequence[CutPlan]) -> None:
    style(axes, "Bytes at the cut per training sample")
    from matplotlib.ticker import FuncFormatter

    for shift, colour, name in ((-0.2, UPLINK, "uplink"), (0.2, DOWNLINK, "downlink")):
        sizes = [getattr(cut, f"{name}_bytes_per_sample") for cut in cuts]
        axes.bar(
            [cut.cut_layer + shift for cut in cuts], sizes, width=0.38, color=colour, label=name
        )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: with_unit(size, "B")))
    most = max(max(cut.uplink_bytes_per_sample, cut.downlink_bytes_per_sample) for cut in cuts)
    axes.set_ylim(0, 1.18 * most)
    axes.legend(loc="upper left", frameon=False, fontsize=SMALL, labelcolor=INK, ncols=2)
    _cut_axis(axes, cuts)


def _times(axes: Axes, plan: ModelPlan) -> None:
    style(axes, "Estimated round, seconds")
    for number, name in enumerate(plan.setting.links):
        _line(axes, plan.cuts, [cut.round_seconds[name] for cut in plan.cuts], name, number)
    # Leave room for the legend above the lines.
    axes.set_ylim(0, 1.3 * max(s for cut in plan.cuts for s in cut.round_seconds.values()))
    _legend(axes)


def _line(
    axes: Axes,
    cuts: Sequence[CutPlan],
    values: Sequence[float],
    name: str,
    number: int,
    width: float = 2.0,
) -> None:
    layers = [cut.cut_layer for cut in cuts]
    axes.plot(
        layers,
        values,
        label=name,
        **looks(number) | {"linewidth": width, "markersize": 2.0 + width},  # type: ignore[arg-type]
        clip_on=False,
    )
    _cut_axis(axes, cuts)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", frameon=False, fontsize=SMALL, labelcolor=INK)


def _cut_axis(axes: Axes, cuts: Sequence[CutPlan]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(cuts[0].cut_layer - 0.6, cuts[-1].cut_layer + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("cut: stages on the client", color=MUTED)
