"""ViTs of timm (Wightman, 2019): `timm.models.vision_transformer.VisionTransformer`.

Stage 0 embeddings: images [B, C, H, W] -> [B, P+N, D]; the P first are the class token and the
register tokens, as far as the model has them.
Stages 1..L blocks: [B, P+N, D] -> [B, P+N, D].
Stage L+1 head: norm, pooling, norm, head -> logits [B, classes].
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models.family import Family
from fedsplit.models.stages import Root, Stage

_MODULE = "timm.models.vision_transformer"
_TOKENS = ("cls_token", "reg_token")
# The methods that the stages replace: a subclass that overrides one is another architecture.
_METHODS = ("forward", "forward_features", "forward_head", "pool", "_pos_embed")


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `VisionTransformer`.

    Raises
    ------
    ModelError
        If it computes more than these stages do.
    """
    fault = _fault(model)
    if fault:
        raise ModelError(
            f"This {type(model).__name__} of timm {fault}, so it cannot be split. Use a plain "
            "VisionTransformer, such as vit_small_patch16_224."
        )
    tokens = tuple(name for name in _TOKENS if getattr(model, name) is not None)
    positions = () if model.pos_embed is None else ("pos_embed",)
    pooling = () if model.attn_pool is None else ("attn_pool",)
    embed = partial(_embed, tokens, bool(positions), model.no_embed_class)
    head = partial(
        _head, model.num_prefix_tokens, model.pool_include_prefix, model.global_pool, bool(pooling)
    )
    stem = ("patch_embed", *tokens, *positions, "pos_drop", "patch_drop", "norm_pre")
    return [
        Stage("embeddings", stem, embed),
        *(
            Stage(f"block {index + 1}", (path,), partial(_block, attrgetter(path)))
            for index, path in enumerate(f"blocks.{name}" for name, _ in _blocks(model))
        ),
        Stage("head", ("norm", *pooling, "fc_norm", "head_drop", "head"), head),
    ]


def _blocks(model: Root) -> list[tuple[str, nn.Module]]:
    return list(model.blocks.named_children())


def _fault(model: Root) -> str | None:
    base = next(c for c in type(model).__mro__ if c.__module__ == _MODULE)
    own = [name for name in _METHODS if getattr(type(model), name) is not getattr(base, name)]
    if own:
        return f"has its own {own[0]}()"
    if type(model.patch_embed).__name__ != "PatchEmbed":
        return f"embeds its patches by {type(model.patch_embed).__name__}"
    if model.dynamic_img_size:
        return "takes images of any size (dynamic_img_size)"
    if not isinstance(model.patch_drop, nn.Identity):
        # Training uses fewer tokens than evaluation, so smashed data has no fixed shape.
        return "drops patches (patch_drop_rate)"
    if not model.global_pool:
        return "does not pool its tokens (global_pool = '')"
    return None if _blocks(model) else "has no blocks"


def _embed(
    tokens: tuple[str, ...], positioned: bool, patches_only: bool, root: Root, images: Tensor
) -> Tensor:
    # Images stay float32 in a bfloat16 model, as in the other families.
    patches = root.patch_embed(images.to(root.patch_embed.proj.weight.dtype))
    prefix = [getattr(root, name).expand(len(images), -1, -1) for name in tokens]
    if not positioned:
        hidden = torch.cat([*prefix, patches], dim=1)
    elif patches_only:
        hidden = root.pos_drop(torch.cat([*prefix, patches + root.pos_embed], dim=1))
    else:
        hidden = root.pos_drop(torch.cat([*prefix, patches], dim=1) + root.pos_embed)
    embedded: Tensor = root.norm_pre(hidden)
    return embedded


def _block(find_block: attrgetter[Any], root: Root, hidden: Tensor) -> Tensor:
    output: Tensor = find_block(root)(hidden)
    return output


def _head(
    num_prefix: int,
    with_prefix: bool,
    kind: str,
    by_attention: bool,
    root: Root,
    hidden: Tensor,
) -> Tensor:
    hidden = root.norm(hidden)
    if by_attention:
        pooled = root.attn_pool(hidden if with_prefix else hidden[:, num_prefix:])
    else:
        pool = importlib.import_module(_MODULE).global_pool_nlc
        pooled = pool(
            hidden,
            pool_type=kind,
            num_prefix_tokens=num_prefix,
            reduce_include_prefix=with_prefix,
        )
    logits: Tensor = root.head(root.head_drop(root.fc_norm(pooled)))
    return logits


FAMILY = Family(
    "timm vit",
    model_class=f"{_MODULE}:VisionTransformer",
    stages=stages,
    model_type="timm-vit",
    head=("head.",),
    library="timm",
    size_step=lambda model: max(model.patch_embed.patch_size),
)
