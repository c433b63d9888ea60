"""The configuration keys of the images and of how the clients share them."""

from __future__ import annotations

from typing import Literal

from PIL import ImageColor
from pydantic import Field, field_validator

from fedsplit.config.section import Section, Whole

PILLOWS_LIMIT = 89_478_485
"""Pixels above which Pillow warns of an image; it refuses one with twice as many."""
Augment = Literal["none", "flip-crop", "randaugment", "trivial"]
Partitioner = Literal[
    "iid",
    "dirichlet",
    "inner-dirichlet",
    "pathological",
    "shard",
    "linear",
    "square",
    "exponential",
    "natural-id",
]


class DataConfig(Section):
    """The images, and how they are divided among the clients."""

    name: str = Field(
        "fashion-mini",
        min_length=1,
        description="bundled name, local folder, package.module:function or Hugging Face Hub id",
    )
    config_name: str = Field("", description="subset of a Hub data set; empty = its default one")
    partitioner: Partitioner = Field(
        "iid", description="how the training images are divided among the clients"
    )
    alpha: float = Field(
        0.5,
        gt=0.0,
        description="dirichlet, inner-dirichlet: concentration; a smaller value is more uneven",
    )
    partition_column: str = Field(
        "",
        description="natural-id: column that says to whom an image belongs, such as a writer or a "
        "hospital",
    )
    classes_per_client: Whole = Field(
        2, ge=1, description="pathological: number of classes of each client"
    )
    shards_per_client: Whole = Field(
        2, ge=1, description="shard: number of label-sorted shards of each client"
    )
    min_partition_size: Whole = Field(
        10,
        ge=0,
        description="dirichlet: minimum number of images of each client; smaller partitions are "
        "drawn again",
    )
    validation_fraction: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="fraction of each client's images that is held out for federated evaluation",
    )
    max_train_samples: Whole = Field(
        0, ge=0, description="maximum number of training images, balanced by class; 0 = all"
    )
    max_test_samples: Whole = Field(
        0, ge=0, description="maximum number of test images, balanced by class; 0 = all"
    )
    max_pixels: Whole = Field(
        50_000_000,
        ge=1,
        le=2 * PILLOWS_LIMIT,
        description="maximum width times height of an image; a larger one is refused before it is "
        "decoded",
    )
    follow_links: bool = Field(
        False,
        description="read image files outside a data set's folder to which links in it lead "
        "(docs/data.md, Data sets of strangers)",
    )
    background: str = Field(
        "white", description="colour behind transparent pixels: a name or #rrggbb, as Pillow has it"
    )
    augment: Augment = Field(
        "none", description="random changes of training images (docs/algorithms.md, Augmentation)"
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail",
        description="images that cannot be decoded: fail when they are needed, or skip them, which "
        "decodes every image once at the start",
    )
    train_split: str = Field("train", min_length=1, description="split of the training images")
    test_split: str = Field(
        "",
        description="split of the test images; empty = test, else validation, else images that are "
        "held out of the training images",
    )
    image_column: str = Field("", description="column of the images; empty = find it")
    label_column: str = Field("", description="column of the labels; empty = find it")

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str) -> str:
        try:
            ImageColor.getrgb(value)
        except ValueError:
            raise ValueError(f"'{value}' is no colour. Use one such as white or #ff8800") from None
        return value

    def only(self, *fields: str) -> DataConfig:
        """Return a config with these fields, and the defaults of all others.

        As a cache key it tells apart what differs in these fields, and nothing else.
        """
        return DataConfig(**self.model_dump(include=set(fields)))
