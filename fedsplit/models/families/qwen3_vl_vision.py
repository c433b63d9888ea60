"""The stages of Qwen3-VL's vision tower, for the classifier and for the whole model.

State: ``hidden`` [S, D] packed, ``grid_thw`` int64 [B, 3] on the CPU (see
`fedsplit.models.qwen3_vl_grid`), and what else the model carries along, untouched.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import Tensor

from fedsplit.models.qwen3_vl_grid import Resampling, rotary, segments
from fedsplit.models.stages import Root

EMBEDDINGS = ("model.visual.patch_embed", "model.visual.pos_embed")
# Every block computes these angles itself; they are listed because each tensor needs a stage.
ROTARY = "model.visual.rotary_pos_emb"


def image_shape(config: Root) -> tuple[int, int, int]:
    """Return channels, height and width: from `image_size`, else about 256 in whole patches.

    256 x 256 is the least that the image processor of Qwen3-VL makes of an image.
    """
    vision_config = config.vision_config
    step = _step(config)
    size = getattr(config, "image_size", None) or -(-256 // step) * step
    height, width = (size, size) if isinstance(size, int) else size
    return vision_config.in_channels, height, width


def size_step(model: Root) -> int:
    """Return what height and width must be a multiple of: the side of a block of merged patches."""
    return _step(model.config)


def _step(config: Root) -> int:
    step: int = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    return step


def embed(
    root: Root, resampling: Resampling, patches: Tensor, grid_thw: Tensor
) -> dict[str, Tensor]:
    """Embed patches [S, C T P P] and add the learned positions, here once: the first state."""
    grid_thw = grid_thw.cpu()
    visual = root.model.visual
    hidden = visual.patch_embed(patches)
    indices, weights = (each.to(hidden.device) for each in resampling(grid_thw))
    positions = (visual.pos_embed(indices) * weights[:, :, None]).sum(dim=1)
    return {"hidden": hidden + positions.to(hidden.dtype), "grid_thw": grid_thw}


def block(find_block: attrgetter[Any], root: Root, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run one block; positions and frame ends are computed from ``grid_thw`` alone."""
    from transformers.utils.generic import get_max_seqlen, is_flash_attention_requested

    module = find_block(root)
    config = module.attn.config
    hidden, grid_thw = state["hidden"], state["grid_thw"].cpu()
    ends = segments(grid_thw)
    hidden = module(
        hidden,
        # Only flash attention reads them on its device.
        cu_seqlens=ends.to(hidden.device) if is_flash_attention_requested(config) else ends,
        max_seqlen=get_max_seqlen(ends, config),
        position_embeddings=rotary(grid_thw, config, hidden),
    )
    return {**state, "hidden": hidden, "grid_thw": grid_thw}
