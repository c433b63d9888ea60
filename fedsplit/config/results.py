"""The configuration keys of the services that receive a run's results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsplit.config.section import Address, Section


class SinksConfig(Section):
    """Further places that receive the metrics of each round and the summary."""

    tensorboard: bool = Field(
        False, description="write TensorBoard files to tensorboard/ in the run directory"
    )
    wandb: Literal["off", "offline", "online"] = Field(
        "off", description="log to Weights & Biases; offline writes to wandb/ in the run directory"
    )
    prometheus: Address = Field(
        "",
        description="host:port at which /metrics is served in Prometheus' format while the run "
        "goes on; off loopback with channel.certificate; empty = nowhere",
    )
    wandb_project: str = Field("fedsplit", min_length=1, description="Weights & Biases project")
