"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models import custom
from fedsplit.models.families import qwen3_vl, qwen3_vl_classifier, vit

__all__ = ["custom", "qwen3_vl", "qwen3_vl_classifier", "vit"]
