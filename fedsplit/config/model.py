"""The configuration keys of the model: its name, its cut, and which of its weights train."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsplit.config.section import Section, Whole


class ModelConfig(Section):
    """The model."""

    name: str = Field(
        "vit-nano",
        min_length=1,
        description="built-in name, torchvision:NAME, timm:NAME, package.module:function, "
        "Hugging Face Hub id or local directory",
    )
    pretrained: bool = Field(True, description="load pretrained weights, if the model has any")
    image_size: Whole = Field(
        0,
        ge=0,
        description="height and width of the images that the model is given, in pixels; positions "
        "are interpolated; 0 = the model's own size",
    )
    trust: bool = Field(
        False,
        description="whether the files of a model's directory may name code that is run "
        "(docs/models.md)",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of all weights and of the tensors at the cut"
    )
    autocast: Literal["none", "bfloat16", "float16"] = Field(
        "none",
        description="autocast dtype in which both sides train; weights, and what passes the cut, "
        "stay float32",
    )

    @model_validator(mode="after")
    def _autocast_from_float32(self) -> Self:
        if self.autocast != "none" and self.dtype != "float32":
            raise ValueError(
                f"model.autocast = '{self.autocast}' needs model.dtype = 'float32'; weights in "
                f"'{self.dtype}' already compute in that dtype"
            )
        return self


class SplitConfig(Section):
    """Where the model is cut, and which of its weights train."""

    cut_layer: Whole = Field(
        1, ge=1, description="number of stages on the client; 1 = the embeddings"
    )
    topology: Literal["vanilla", "u-shaped"] = Field(
        "vanilla", description="labels and top on the server (vanilla) or on the client (u-shaped)"
    )
    top_layer: Whole = Field(
        0, ge=0, description="u-shaped: number of stages before the top; 0 = the top is the head"
    )

    trainable: Literal["all", "head", "lora", "bottom-frozen"] = Field(
        "all", description="which weights train (docs/algorithms.md)"
    )

    @property
    def points(self) -> list[int]:
        """The split points: where the trunk begins and, unless that is the head, the top."""
        return [self.cut_layer, *([self.top_layer] if self.top_layer else [])]

    @property
    def u_shaped(self) -> bool:
        """Whether labels and top stay on the client."""
        return self.topology == "u-shaped"

    @property
    def server_trains(self) -> bool:
        """Whether any stage other than the last one trains, and so the server in any topology."""
        return self.trainable != "head"

    @model_validator(mode="after")
    def _top_after_cut(self) -> Self:
        if self.top_layer and not self.u_shaped:
            raise ValueError(
                f"split.top-layer = {self.top_layer} needs split.topology = 'u-shaped'; in the "
                "vanilla one the server holds everything behind the cut"
            )
        if self.top_layer and self.top_layer <= self.cut_layer:
            raise ValueError(
                f"split.top-layer = {self.top_layer} must be above split.cut-layer = "
                f"{self.cut_layer}, or the server would hold nothing"
            )
        return self


class LoraConfig(Section):
    """The adapters of `split.trainable = "lora"`."""

    rank: Whole = Field(8, ge=1, description="rank of each adapter")
    alpha: Whole = Field(
        16, ge=1, description="scaling: the adapter's output is multiplied by alpha / rank"
    )
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="dropout of an adapter's input during training"
    )
