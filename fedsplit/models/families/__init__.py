"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models import custom
from fedsplit.models.families import (
    beit,
    clip,
    deit,
    dinov2,
    qwen3_vl,
    qwen3_vl_classifier,
    siglip,
    swin,
    timm,
    torchvision,
    vit,
)

__all__ = [
    "beit",
    "clip",
    "custom",
    "deit",
    "dinov2",
    "qwen3_vl",
    "qwen3_vl_classifier",
    "siglip",
    "swin",
    "timm",
    "torchvision",
    "vit",
]
