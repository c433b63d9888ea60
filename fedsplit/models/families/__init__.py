"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models.families import timm, torchvision, vit

__all__ = ["timm", "torchvision", "vit"]
