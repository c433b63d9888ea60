"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models.families import vit

__all__ = ["vit"]
