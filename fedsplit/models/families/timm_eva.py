"""EVA and EVA-02 (Fang et al., arXiv:2303.11331) of timm: `timm.models.eva.Eva`.

timm's DINOv3 and its other ViTs with rotary positions are of this class too.

Stage 0 embeddings: images [B, C, H, W] -> [B, P+N, D]; the P first are the class token and the
register tokens, as far as the model has them.
Stages 1..L blocks: [B, P+N, D] -> [B, P+N, D]. Each reads the same table of rotary angles, which is
no weight and is kept beside the stages.
Stage L+1 head: norm, pooling, norm, head -> logits [B, classes].
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fedsplit.errors import ModelError
from fedsplit.models.family import Family
from fedsplit.models.stages import Root, Stage

_MODULE = "timm.models.eva"
_TOKENS = ("cls_token", "reg_token")
_METHODS = ("forward", "forward_features", "forward_head", "pool", "_pos_embed")


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of an `Eva`.

    Raises
    ------
    ModelError
        If it computes more than these stages do.
    """
    fault = _fault(model)
    if fault:
        raise ModelError(
            f"This {type(model).__name__} of timm {fault}, so it cannot be split. Use one such as "
            "timm:eva02_tiny_patch14_224."
        )
    tokens = tuple(name for name in _TOKENS if getattr(model, name) is not None)
    positions = () if model.pos_embed is None else ("pos_embed",)
    rotary = () if model.rope is None else ("rope",)
    pooling = () if model.attn_pool is None else ("attn_pool",)
    table = None if model.rope is None else model.rope.get_embed().detach()
    stem = ("patch_embed", *tokens, *positions, *rotary, "pos_drop", "norm_pre")
    paths = [f"blocks.{index}" for index in range(len(model.blocks))]
    return [
        Stage("embeddings", stem, partial(_embed, tokens, bool(positions), model.no_embed_class)),
        *(
            Stage(f"block {number}", (path,), partial(_block, attrgetter(path), table))
            for number, path in enumerate(paths, start=1)
        ),
        Stage(
            "head",
            ("norm", *pooling, "fc_norm", "head_drop", "head"),
            partial(_head, model.num_prefix_tokens, model.global_pool, bool(pooling)),
        ),
    ]


def _fault(model: Root) -> str | None:
    base = next(c for c in type(model).__mro__ if c.__module__ == _MODULE)
    own = [name for name in _METHODS if getattr(type(model), name) is not getattr(base, name)]
    rope = model.rope
    faults = {
        f"has its own {own[0]}()" if own else "": bool(own),
        "takes images of any size (dynamic_img_size)": model.dynamic_img_size,
        "drops patches (patch_drop_rate)": model.patch_drop is not None,
        "does not pool its tokens (global_pool = '')": not model.global_pool,
        # All blocks share them, and a parameter belongs to one stage.
        "trains its rotary positions (rope_type = 'mixed')": rope is not None
        and any(True for _ in rope.parameters()),
        "has rotary positions of another kind (rope_type = 'mrope')": rope is not None
        and not hasattr(rope, "feat_shape"),
        "changes its rotary positions at random in training (rope_rescale_coords)": getattr(
            rope, "aug_active", False
        ),
        "has no blocks": not len(model.blocks),
    }
    return next((fault for fault, there in faults.items() if there), None)


def _embed(
    tokens: tuple[str, ...], positioned: bool, patches_only: bool, root: Root, images: Tensor
) -> Tensor:
    # Images stay float32 in a bfloat16 model, as in the other families.
    hidden = root.patch_embed(images.to(root.patch_embed.proj.weight.dtype))
    if positioned and patches_only:
        hidden = hidden + root.pos_embed
    prefix = [getattr(root, name).expand(len(images), -1, -1) for name in tokens]
    hidden = torch.cat([*prefix, hidden], dim=1)
    if positioned and not patches_only:
        hidden = hidden + root.pos_embed
    embedded: Tensor = root.norm_pre(root.pos_drop(hidden))
    return embedded


def _block(find_block: attrgetter[Any], table: Tensor | None, root: Root, hidden: Tensor) -> Tensor:
    turned = None if table is None else table.to(hidden.device, hidden.dtype)
    output: Tensor = find_block(root)(hidden, rope=turned)
    return output


def _head(num_prefix: int, kind: str, by_attention: bool, root: Root, hidden: Tensor) -> Tensor:
    hidden = root.norm(hidden)
    if by_attention:
        pooled = root.attn_pool(hidden)
    else:
        pool = importlib.import_module(_MODULE).global_pool_nlc
        pooled = pool(hidden, pool_type=kind, num_prefix_tokens=num_prefix)
    logits: Tensor = root.head(root.head_drop(root.fc_norm(pooled)))
    return logits


FAMILY = Family(
    "timm eva",
    model_class=f"{_MODULE}:Eva",
    stages=stages,
    model_type="timm-eva",
    head=("head.",),
    library="timm_eva",
    size_step=lambda model: max(model.patch_embed.patch_size),
)
