"""The arguments that would make a VisionTransformer of timm again."""

from __future__ import annotations

from typing import Any

from torch import nn

BASE = "vit_base_patch16_224"
"""The architecture of a stored model without a name; the arguments state all differences."""


def arguments_of(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Read the arguments from a model's modules: timm keeps none for a model made by hand."""
    block = next(iter(model.blocks))
    return {
        "img_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "in_chans": model.in_chans,
        "global_pool": model.global_pool,
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "class_token": model.cls_token is not None,
        "pos_embed": "none" if model.pos_embed is None else "learn",
        "no_embed_class": model.no_embed_class,
        "reg_tokens": model.num_reg_tokens,
        "pre_norm": _there(model.norm_pre),
        "final_norm": _there(model.norm) or _there(model.fc_norm),
        "fc_norm": _there(model.fc_norm),
        "pool_include_prefix": model.pool_include_prefix,
        "drop_rate": model.head_drop.p,
        "pos_drop_rate": model.pos_drop.p,
        "drop_path_rate": getattr(model.blocks[-1].drop_path1, "drop_prob", 0.0),
        **_of_block(block, model.embed_dim),
    }


def _of_block(block: Any, width: int) -> dict[str, Any]:  # noqa: ANN401
    attention, mlp = block.attn, block.mlp
    hidden = mlp.fc1.out_features
    ratio = hidden / width
    arguments = {
        "num_heads": attention.num_heads,
        # timm rounds the product down.
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,
        "qkv_bias": attention.qkv.bias is not None,
        "qk_norm": _there(attention.q_norm),
        "scale_attn_norm": _there(attention.norm),
        "scale_mlp_norm": _there(mlp.norm),
        "proj_bias": attention.proj.bias is not None,
        "proj_drop_rate": attention.proj_drop.p,
        "attn_drop_rate": attention.attn_drop.p,
    }
    # Any value above 0 will do: it only initialises the scales.
    return {**arguments, "init_values": 1e-5} if _there(block.ls1) else arguments


def _there(module: nn.Module) -> bool:
    return not isinstance(module, nn.Identity)
