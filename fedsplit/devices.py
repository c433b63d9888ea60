"""The torch device that a run asks for: whether it is here, and which share of it a client gets."""

from __future__ import annotations

import os

import torch

from fedsplit.errors import ConfigError

_GRANULARITY = 10_000
"""Ray deals out GPUs in ten-thousandths."""


def check_device(device: str, *, key: str = "device") -> None:
    """Refuse a device that this process cannot compute on.

    Parameters
    ----------
    device : str
        A torch device.
    key : str
        The configuration key that names it.

    Raises
    ------
    ConfigError
        With torch's reason. Where Ray hides all GPUs from a client, it says how to ask for them.
    """
    try:
        if torch.zeros(1, device=device).is_meta:
            raise RuntimeError("it stores no values")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        remedy = "Use 'cpu', or a device that this machine's torch offers."
        if device.startswith("cuda") and os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            remedy = (
                "This process may use no GPU (CUDA_VISIBLE_DEVICES is empty). A Flower simulation "
                "gives its clients only the GPUs that the federation asks for: --federation-config "
                '"client-resources-num-gpus=0.1 ..." lets ten clients share one.'
            )
        raise ConfigError(f"{key} = '{device}' cannot be used here ({reason}). {remedy}") from None


def gpus_per_client(device: str, at_once: int) -> float:
    """Return the share of a GPU that each of the clients at work needs; 0 for other devices.

    Raises
    ------
    ConfigError
        If the device is a GPU with a number: Ray numbers the GPUs of a client itself.
    """
    if not device.startswith("cuda"):
        return 0.0
    if device != "cuda":
        raise ConfigError(
            f"device = '{device}' has a number, but in a Flower simulation Ray chooses each "
            "client's GPU. Use device = 'cuda', and CUDA_VISIBLE_DEVICES to choose among GPUs; or "
            "--engine inprocess."
        )
    return min(1.0, torch.cuda.device_count() * _GRANULARITY // at_once / _GRANULARITY)
