"""The configuration keys of the images, and of who holds them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsplit.config.section import Section, Whole

Partitioner = Literal["iid", "dirichlet", "pathological", "shard"]


class DataConfig(Section):
    """Which images, and who holds them."""

    name: str = Field("fashion-mini", min_length=1, description="bundled name, Hub id or folder")
    partitioner: Partitioner = Field("iid", description="how the training images are shared out")
    alpha: float = Field(0.5, gt=0.0, description="dirichlet: small means more uneven")
    classes_per_client: Whole = Field(
        2, ge=1, description="pathological: classes each client holds"
    )
    shards_per_client: Whole = Field(2, ge=1, description="shard: label-sorted shards per client")
    min_partition_size: Whole = Field(10, ge=0, description="dirichlet: draw again below this")
    validation_fraction: float = Field(
        0.1, ge=0.0, lt=1.0, description="part of each shard kept for federated evaluation"
    )
    max_train_samples: Whole = Field(
        0, ge=0, description="use only so many training images; 0 = all"
    )
    max_test_samples: Whole = Field(0, ge=0, description="use only so many test images; 0 = all")
    image_column: str = Field("", description="column of the images; empty = find it")
    label_column: str = Field("", description="column of the labels; empty = find it")
