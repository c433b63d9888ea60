"""DINOv3's rotary positions, which have no weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def angles(config: Any, grid: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return cosine and sine of each patch's angles, [N, head width] each.

    Parameters
    ----------
    config : DINOv3ViTConfig
        Of transformers.
    grid : tuple[int, int]
        h and w in patches; N = h w.
    like : Tensor
        Whose device and dtype they get. They are computed in float32.
    """
    head_width = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, 1, 4 / head_width, dtype=torch.float32, device=like.device)
    frequencies = 1 / config.rope_theta**exponents
    # The centre of each patch, between -1 and 1.
    sides = [
        2 * (torch.arange(0.5, size, dtype=torch.float32, device=like.device) / size) - 1
        for size in grid
    ]
    centres = torch.cartesian_prod(*sides)
    turned = (2 * math.pi * centres[:, :, None] * frequencies).flatten(1).tile(2)
    return turned.cos().to(like.dtype), turned.sin().to(like.dtype)
