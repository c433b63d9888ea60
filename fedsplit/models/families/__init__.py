"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models import custom
from fedsplit.models.families import (
    beit,
    clip,
    deit,
    dinov2,
    dinov3,
    qwen3_vl,
    qwen3_vl_classifier,
    siglip,
    siglip2,
    swin,
    timm,
    timm_eva,
    torchvision,
    torchvision_swin,
    vit,
)

BUILTIN = (
    custom.FAMILY,
    beit.FAMILY,
    clip.FAMILY,
    deit.FAMILY,
    deit.WITH_TEACHER,
    dinov2.FAMILY,
    dinov2.WITH_REGISTERS,
    dinov3.FAMILY,
    qwen3_vl.FAMILY,
    qwen3_vl_classifier.FAMILY,
    siglip.FAMILY,
    siglip2.FAMILY,
    swin.FAMILY,
    swin.V2,
    timm.FAMILY,
    timm_eva.FAMILY,
    torchvision.FAMILY,
    torchvision_swin.FAMILY,
    vit.FAMILY,
)
"""If several share a `model_type`, the first is used unless the config's architectures decide."""
