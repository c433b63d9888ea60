"""What Qwen3-VL's vision tower packs, and what `grid_thw` says about it.

All images lie in one sequence of patches, without a batch axis: S rows for B images. ``grid_thw``
[B, 3] has the frames, rows and columns of patches of each. Patches that are merged into one token
later stand next to each other; 4 x 4 patches with merge 2 have the order

     0  1 |  4  5
     2  3 |  6  7
    ------+------
     8  9 | 12 13
    10 11 | 14 15

Qwen3-VL Technical Report (Bai et al., arXiv:2511.21631); two-dimensional rotary embeddings as in
Qwen2-VL (Wang et al., arXiv:2409.12191).

``grid_thw`` is read on the CPU: there, no device has to be waited for, and it has numbers even
where everything else is on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from fedsplit.errors import ModelError
from fedsplit.models.stages import Root

Resampling = Callable[[Tensor], tuple[Tensor, Tensor]]
"""How learned positions are resampled for the images; see `resampling_of`."""


def pack_images(images: Tensor, vision_config: Root) -> tuple[Tensor, Tensor]:
    """Cut images into patches, as the image processor of Qwen3-VL does.

    Parameters
    ----------
    images : Tensor
        [B, C, H, W], normalised; H and W multiples of P x M, patch size by merge size.
    vision_config : Qwen3VLVisionConfig
        Of the tower.

    Returns
    -------
    tuple[Tensor, Tensor]
        Patches [S, C T P P], in which an image stands T times, as a film that stands still, and
        grid_thw int64 [B, 3] on the CPU.

    Raises
    ------
    ModelError
        If the images do not divide into merged patches.
    """
    patch, merge = vision_config.patch_size, vision_config.spatial_merge_size
    channels, step = vision_config.in_channels, patch * merge
    batch_size, *shape = images.shape
    if len(shape) != 3 or shape[0] != channels or shape[1] % step or shape[2] % step or 0 in shape:
        raise ModelError(
            f"Images of {'x'.join(map(str, shape))} (channels x height x width) do not divide into "
            f"patches of this model. Give {channels} channels, and height and width in multiples "
            f"of {step} (patch_size {patch} x spatial_merge_size {merge})."
        )
    rows, columns = shape[1] // step, shape[2] // step
    blocks = images.reshape(batch_size, channels, rows, merge, patch, columns, merge, patch)
    # -> [B, rows, columns, merge, merge, C, P, P]: block after block, then the patches of each.
    patches = torch.einsum("bcrypsxq->brsyxcpq", blocks).flatten(0, 4)
    frames = patches.unsqueeze(2).expand(-1, -1, vision_config.temporal_patch_size, -1, -1)
    grid_thw = torch.tensor([[1, rows * merge, columns * merge]], device="cpu")
    return frames.flatten(1), grid_thw.repeat(batch_size, 1)


def segments(grid_thw: Tensor) -> Tensor:
    """Return the start of each frame, and the end: int32 [F + 1] on the CPU for F frames.

    Attention stays within a frame. With one segment for all, images would attend to each other.
    """
    from transformers.vision_utils import get_vision_cu_seqlens

    return get_vision_cu_seqlens(grid_thw.cpu())


def resampling_of(visual: Root) -> Resampling:
    """Return the function from grid_thw [B, 3] to indices and weights [S, 4] of learned positions.

    Parameters
    ----------
    visual : Qwen3VLVisionModel
        Says how its positions are resampled; its weights are not used.
    """
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    return partial(
        get_vision_interpolation_indices_and_weights,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=visual.spatial_merge_size,
    )


def rotary(grid_thw: Tensor, vision_config: Root, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [S, head width] of the patches' places, on hidden's device.

    From the config alone: a part that has been emptied and filled with weights has none for it.
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionRotaryEmbedding

    grids = tuple(tuple(map(int, grid)) for grid in grid_thw.tolist())
    places = _places(grids, vision_config.spatial_merge_size).to(hidden.device)
    found: tuple[Tensor, Tensor] = Qwen3VLVisionRotaryEmbedding(vision_config)(hidden, places)
    return found


def image_means(merged: Tensor, grid_thw: Tensor, merge: int) -> Tensor:
    """Return the mean over each image's merged tokens: [S / M^2, D] -> [B, D]."""
    counts = (grid_thw.cpu().prod(dim=1) // merge**2).tolist()
    return torch.stack([tokens.mean(dim=0) for tokens in torch.split(merged, counts)])


@lru_cache(maxsize=16)
def _places(grids: tuple[tuple[int, ...], ...], merge: int) -> Tensor:
    # Every block needs the same values, which take a loop over the images.
    from transformers.vision_utils import get_vision_position_ids

    with torch.inference_mode(False):
        return get_vision_position_ids(torch.tensor(grids, device="cpu"), merge)
