"""EVA and EVA-02 (Fang et al., arXiv:2303.11331) of timm: `timm.models.eva.Eva`.

timm's DINOv3 and its other ViTs with rotary positions are of this class too.

Stage 0 embeddings: images [B, C, H, W] -> [B, P+N, D]; the P first are the class token and the
register tokens, as far as the model has them.
Stages 1..L blocks: [B, P+N, D] -> [B, P+N, D]. Each reads the same table of rotary angles, which is
no weight and is kept beside the stages.
Stage L+1 head: norm, pooling, norm, head -> logits [B, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor

from fedsplit.errors import ModelError
from fedsplit.models.families.timm_stages import block, embed, head, overridden, prefix_tokens
from fedsplit.models.family import Family
from fedsplit.models.stages import Root, Stage

_MODULE = "timm.models.eva"
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
    tokens = prefix_tokens(model)
    positions = () if model.pos_embed is None else ("pos_embed",)
    rotary = () if model.rope is None else ("rope",)
    pooling = () if model.attn_pool is None else ("attn_pool",)
    table = None if model.rope is None else model.rope.get_embed().detach()
    stem = ("patch_embed", *tokens, *positions, *rotary, "pos_drop", "norm_pre")
    # Attention pools all tokens, the other kinds only the patches.
    pools = (model.num_prefix_tokens, bool(pooling), model.global_pool, bool(pooling))
    paths = [f"blocks.{index}" for index in range(len(model.blocks))]
    return [
        Stage(
            "embeddings",
            stem,
            partial(embed, tokens, bool(positions), model.no_embed_class, True),
        ),
        *(
            Stage(f"block {number}", (path,), partial(_block, attrgetter(path), table))
            for number, path in enumerate(paths, start=1)
        ),
        Stage(
            "head",
            ("norm", *pooling, "fc_norm", "head_drop", "head"),
            partial(head, _MODULE, *pools),
        ),
    ]


def _fault(model: Root) -> str | None:
    own = overridden(model, _MODULE, _METHODS)
    rope = model.rope
    faults = {
        f"has its own {own}()": own is not None,
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


def _block(find_block: attrgetter[Any], table: Tensor | None, root: Root, hidden: Tensor) -> Tensor:
    turned = None if table is None else table.to(hidden.device, hidden.dtype)
    return block(find_block, root, hidden, rope=turned)


FAMILY = Family(
    "timm eva",
    model_class=f"{_MODULE}:Eva",
    stages=stages,
    model_type="timm-eva",
    head=("head.",),
    library="timm_eva",
    size_step=lambda model: max(model.patch_embed.patch_size),
)
