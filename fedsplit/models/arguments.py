"""Check what callers ask of a model before anything is read or built. All raise `ModelError`."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

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


_OF_CODE = {
    *("device", "dtype", "block", "downsample_layer", "conv_stem_configs"),
    *("embed_layer", "block_fn", "mlp_layer", "norm_layer"),
}


def check_arguments(
    name: str,
    arguments: Mapping[str, Any],
    model_class: type[Any],
    more: Collection[str] = (),
) -> None:
    """Refuse arguments in a config that a model's class does not take as values.

    A library's function that makes a model by name takes others, which name files and downloads.

    Parameters
    ----------
    name : str
        What the user calls the model, for the message.
    arguments : Mapping[str, Any]
        As in config.json.
    model_class : type
        The class.
    more : Collection[str]
        Further names that are known.
    """
    known = {*inspect.signature(model_class).parameters} - _OF_CODE | {*more}
    odd = sorted(set(arguments) - known)
    if odd:
        raise ModelError(
            f"The config.json of '{name}' has the argument {odd[0]!r:.100} = "
            f"{arguments[odd[0]]!r:.100}, which is none that a file may give to "
            f"{model_class.__name__}. Remove it."
        )
