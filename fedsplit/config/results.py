"""The configuration keys of where results go."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsplit.config.section import Section


class SinksConfig(Section):
    """Where else rounds and summary are sent."""

    tensorboard: bool = Field(False, description="write tensorboard/ into the run directory")
    wandb: Literal["off", "offline", "online"] = Field(
        "off", description="Weights & Biases; offline keeps wandb/ in the run directory"
    )
    wandb_project: str = Field("fedsplit", min_length=1, description="the project there")
