"""The configuration keys of what the server does: train its part, aggregate the clients'."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsplit.config.section import Section


class ServerConfig(Section):
    """In what the server part is trained otherwise than the clients' parts."""

    learning_rate: float = Field(
        0.0, ge=0.0, le=1e6, description="of the server part; 0 = as learning-rate"
    )
    learning_rate_schedule: Literal["same", "constant", "step", "cosine"] = Field(
        "same", description="of the server part; same = as learning-rate-schedule"
    )
    clip_norm: float = Field(
        -1.0, ge=-1.0, description="of the server part; 0 = any, below 0 = as clip-norm"
    )


class AggregationConfig(Section):
    """Which Flower strategy aggregates the clients' parts."""

    name: str = Field("FedAvg", description="class name in flwr.serverapp.strategy")
    options: str = Field("", description='its arguments, such as "eta = 0.1, tau = 1e-3"')
