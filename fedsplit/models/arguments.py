"""Check what callers ask of a model before anything is read or built. All raise `ModelError`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsplit.errors import ModelError
from fedsplit.models.split import PARTS


def checked_labels(num_labels: int | None) -> int | None:
    """Return a number of classes, or refuse what is none."""
    whole = isinstance(num_labels, int) and not isinstance(num_labels, bool)
    if num_labels is not None and not (whole and num_labels >= 1):
        raise ModelError(f"num_labels is {num_labels!r}; give a whole number of at least 1.")
    return num_labels


def check_place(model_name: str, device: str | torch.device, dtype: torch.dtype | None) -> None:
    """Refuse a device that this machine lacks, and a dtype that cannot train."""
    try:
        torch.empty(0, device=torch.device(device), dtype=dtype).requires_grad_()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(
            f"The model '{model_name}' cannot be put on device '{device}' as "
            f"{dtype or torch.float32}: {' '.join(str(error).split()).rstrip('.')}. Use a device "
            "this machine has, such as 'cpu', and a floating-point dtype, such as torch.bfloat16."
        ) from None


def check_parts(parts: Sequence[str]) -> None:
    """Refuse names of parts that a model does not have."""
    if set(parts) - set(PARTS) or isinstance(parts, str):
        raise ModelError(f"parts is {parts!r}; give some of {PARTS}.")
