"""The configuration keys of the model: which one, where it is cut, what of it trains."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsplit.config.section import Section, Whole


class ModelConfig(Section):
    """Which model."""

    name: str = Field(
        "vit-nano",
        min_length=1,
        description="built-in name, torchvision:NAME, timm:NAME, module:function, Hub id or "
        "directory",
    )
    pretrained: bool = Field(True, description="load weights where the model has any")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the weights of every part, and of what crosses the cut"
    )
    autocast: Literal["none", "bfloat16", "float16"] = Field(
        "none", description="in which dtype the split server computes, with float32 weights"
    )

    @model_validator(mode="after")
    def _autocast_from_float32(self) -> Self:
        if self.autocast != "none" and self.dtype != "float32":
            raise ValueError(
                f"autocast = '{self.autocast}' needs dtype = 'float32'; weights in "
                f"'{self.dtype}' compute in that anyway"
            )
        return self


class SplitConfig(Section):
    """Where the model is cut, and what of it trains."""

    cut_layer: Whole = Field(1, ge=1, description="stages on the client; 1 = the embeddings")
    topology: Literal["vanilla", "u-shaped"] = Field(
        "vanilla", description="labels and top at the server, or at the client"
    )
    top_layer: Whole = Field(0, ge=0, description="u-shaped: stages before the top; 0 = the head")

    trainable: Literal["all", "head", "lora", "bottom-frozen"] = Field(
        "all", description="what of the model trains (docs/algorithms.md)"
    )

    @property
    def points(self) -> list[int]:
        """The split points: where the trunk begins and, unless that is the head, the top."""
        return [self.cut_layer, *([self.top_layer] if self.top_layer else [])]

    @property
    def u_shaped(self) -> bool:
        """Whether labels and top stay at the client."""
        return self.topology == "u-shaped"

    @property
    def server_trains(self) -> bool:
        """Whether any stage but the last trains, and with it the server in either topology."""
        return self.trainable != "head"

    @model_validator(mode="after")
    def _top_after_cut(self) -> Self:
        if self.top_layer and not self.u_shaped:
            raise ValueError(
                f"top-layer = {self.top_layer} needs topology = 'u-shaped'; in the vanilla one the "
                "server holds everything behind the cut"
            )
        if self.top_layer and self.top_layer <= self.cut_layer:
            raise ValueError(
                f"top-layer = {self.top_layer} must be above cut-layer = {self.cut_layer}, or the "
                "server would hold nothing"
            )
        return self


class LoraConfig(Section):
    """The adapters of `split.trainable = "lora"`."""

    rank: Whole = Field(8, ge=1, description="numbers that an adapter passes on")
    alpha: Whole = Field(16, ge=1, description="adapters count alpha / rank times")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="of an adapter's input, in training")
