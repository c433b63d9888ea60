"""ViTs of timm (Wightman, 2019): `timm.models.vision_transformer.VisionTransformer`.

Stage 0 embeddings: images [B, C, H, W] -> [B, P+N, D]; the P first are the class token and the
register tokens, as far as the model has them.
Stages 1..L blocks: [B, P+N, D] -> [B, P+N, D].
Stage L+1 head: norm, pooling, norm, head -> logits [B, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from torch import nn

from fedsplit.errors import ModelError
from fedsplit.models.families.timm_stages import block, embed, head, overridden, prefix_tokens
from fedsplit.models.family import Family
from fedsplit.models.stages import Root, Stage

_MODULE = "timm.models.vision_transformer"
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
    tokens = prefix_tokens(model)
    positions = () if model.pos_embed is None else ("pos_embed",)
    pooling = () if model.attn_pool is None else ("attn_pool",)
    stem = ("patch_embed", *tokens, *positions, "pos_drop", "patch_drop", "norm_pre")
    pools = (model.num_prefix_tokens, model.pool_include_prefix, model.global_pool, bool(pooling))
    return [
        Stage(
            "embeddings",
            stem,
            partial(embed, tokens, bool(positions), model.no_embed_class, bool(positions)),
        ),
        *(
            Stage(f"block {index + 1}", (path,), partial(block, attrgetter(path)))
            for index, path in enumerate(f"blocks.{name}" for name, _ in _blocks(model))
        ),
        Stage(
            "head",
            ("norm", *pooling, "fc_norm", "head_drop", "head"),
            partial(head, _MODULE, *pools),
        ),
    ]


def _blocks(model: Root) -> list[tuple[str, nn.Module]]:
    return list(model.blocks.named_children())


def _fault(model: Root) -> str | None:
    own = overridden(model, _MODULE, _METHODS)
    if own:
        return f"has its own {own}()"
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


FAMILY = Family(
    "timm vit",
    model_class=f"{_MODULE}:VisionTransformer",
    stages=stages,
    model_type="timm-vit",
    head=("head.",),
    library="timm",
    size_step=lambda model: max(model.patch_embed.patch_size),
)
