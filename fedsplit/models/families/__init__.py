"""The architectures that fedsplit knows, one file each. Importing them imports no library."""

from fedsplit.models.families import qwen3_vl, qwen3_vl_classifier, vit

__all__ = ["qwen3_vl", "qwen3_vl_classifier", "vit"]
