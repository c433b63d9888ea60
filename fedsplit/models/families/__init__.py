"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models import custom
from fedsplit.models.families import vit

__all__ = ["custom", "vit"]
