"""The configuration keys of the loss, of the server part, and of aggregation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsplit.config.section import Section


class ServerConfig(Section):
    """The server part, where it differs from the clients' parts."""

    device: str = Field(
        "", description="torch device of the server part and of central evaluation; empty = device"
    )
    learning_rate: float = Field(
        0.0, ge=0.0, le=1e6, description="learning rate of the server part; 0 = learning-rate"
    )
    learning_rate_schedule: Literal["same", "constant", "step", "cosine"] = Field(
        "same", description="schedule of the server part; same = learning-rate-schedule"
    )
    clip_norm: float = Field(
        -1.0,
        ge=-1.0,
        description="maximum gradient norm of the server part; 0 disables clipping, a negative "
        "value = clip-norm",
    )


class LossConfig(Section):
    """What training minimises, on whichever side has the labels."""

    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of a label that all classes get alike"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced = a class counts in inverse proportion to its training images at "
        "all clients together, which every client then learns",
    )


class AggregationConfig(Section):
    """The Flower strategy that aggregates the clients' parts."""

    name: str = Field(
        "FedAvg",
        description="class in flwr.serverapp.strategy, or package.module:Class of your own",
    )
    options: str = Field("", description='keyword arguments of it, such as "eta = 0.1, tau = 1e-3"')
    update_factor: float = Field(
        10.0,
        ge=0.0,
        description="how many times as far as those of the run the weights of a client may move "
        "in a round; a client that moves them farther is left out; 0 = as far as it likes",
    )
