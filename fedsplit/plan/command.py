"""The command line of ``fedsplit plan``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedsplit.config import Config
from fedsplit.links import Link, link_of


class DtypeName(StrEnum):
    """The dtype of the weights and of the tensors at the cut."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class NetworkName(StrEnum):
    """The named links (`fedsplit.links.PROFILES`), and a custom one."""

    LAN = "lan"
    WIFI = "wifi"
    FOUR_G = "4g"
    CUSTOM = "custom"


class TopologyName(StrEnum):
    """Where labels and head are: at the server or at the client."""

    VANILLA = "vanilla"
    U_SHAPED = "u-shaped"


def _speed(gflops: float) -> float:
    if not 0.001 <= gflops <= 1e12:  # this also refuses NaN
        raise typer.BadParameter(f"{gflops:g} must be from 0.001 to 1e12")
    return gflops


_Speed = typer.Option(callback=_speed, help="Sustained speed, in 10^9 FLOP per second.")


def plan(  # noqa: PLR0913, PLR0917 - one for each option
    model: Annotated[str, typer.Argument(help="The name of a model, as model.name.")],
    batch_size: Annotated[int, typer.Option(min=1, max=10**7, help="Images per step.")] = 32,
    dtype: Annotated[
        DtypeName, typer.Option(help="Dtype of the weights, as model.dtype.")
    ] = DtypeName.FLOAT32,
    image_size: Annotated[
        int, typer.Option(min=0, help="As model.image-size. [default: that of the model]")
    ] = 0,
    trust: Annotated[bool, typer.Option("--trust", help="As model.trust = true.")] = False,
    num_labels: Annotated[
        int | None, typer.Option(min=1, help="Number of classes. [default: that of the model]")
    ] = None,
    topology: Annotated[TopologyName, typer.Option(help="As split.topology.")] = (
        TopologyName.VANILLA
    ),
    network: Annotated[
        list[NetworkName] | None,
        typer.Option(help="As network.profile; may be given several times. [default: lan wifi 4g]"),
    ] = None,
    uplink_mbps: Annotated[float, typer.Option(help="Uplink rate of --network custom.")] = 0.0,
    downlink_mbps: Annotated[float, typer.Option(help="Downlink rate of --network custom.")] = 0.0,
    latency_ms: Annotated[float, typer.Option(help="One-way latency of --network custom.")] = 0.0,
    samples_per_client: Annotated[
        int, typer.Option(min=1, max=10**7, help="Images that a client trains on in a round.")
    ] = 500,
    client_gflops: Annotated[float, _Speed] = 50.0,
    server_gflops: Annotated[float, _Speed] = 1000.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the plan to this file.")] = None,
) -> None:
    """Show what each cut of a model would cost, without loading its weights."""
    from fedsplit.plan.cuts import Setting, plan_model  # loads torch: not for --help
    from fedsplit.plan.plot import check_picture, plot_plan
    from fedsplit.plan.show import plan_tables, to_json

    names = network or [NetworkName.LAN, NetworkName.WIFI, NetworkName.FOUR_G]
    rates = (uplink_mbps, downlink_mbps, latency_ms)
    u_shaped = topology is TopologyName.U_SHAPED
    setting = Setting(
        model=model,
        batch_size=batch_size,
        dtype=dtype.value,
        image_size=image_size,
        trust=trust,
        num_labels=num_labels,
        topology="u-shaped" if u_shaped else "vanilla",
        links=_links([name.value for name in names], rates),
        samples_per_client=samples_per_client,
        client_gflops=client_gflops,
        server_gflops=server_gflops,
    )
    if plot is not None:
        check_picture(plot)
    found = plan_model(setting)
    if plot is not None:
        plot_plan(found, plot)
    typer.echo(to_json(found) if as_json else plan_tables(found))


def _links(names: list[str], rates: tuple[float, float, float]) -> dict[str, Link]:
    """Return the links by name, checked like those of a config."""
    keys = ("network.uplink-mbps", "network.downlink-mbps", "network.latency-ms")
    custom = dict(zip(keys, rates, strict=True))
    if "custom" not in names and any(custom.values()):
        names = [*names, "none"]  # "none" refuses rates
    links = {}
    for name in names:
        given = custom if name in ("custom", "none") else {}
        config = Config.from_flat({"network.profile": name, **given}, source="The network option")
        link = link_of(config.network)
        assert link is not None
        links[name] = link
    return links
