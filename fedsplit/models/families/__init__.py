"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models.families import beit, clip, deit, dinov2, siglip, swin, vit

__all__ = ["beit", "clip", "deit", "dinov2", "siglip", "swin", "vit"]
