"""BEiT (Bao et al., ICLR 2022) as `transformers.BeitForImageClassification`.

Stage 0 embeddings: images [B, C, H, W] -> [B, N+1, D], class token at index 0.
Stages 1..L blocks: [B, N+1, D] -> [B, N+1, D].
Stage L+1 head: layer norm and class token, or mean of the patches and layer norm; classifier ->
logits [B, classes].

Attention has a bias for the T kinds of relative position, by config.json: none, a table in each
block (fine-tuned checkpoints), or one table that all blocks read (pretrained ones,
`use_shared_relative_position_bias`). The shared one belongs to stage 0 and travels with the state::

    {"hidden": [B, N+1, D], "bias_table": [B, T, heads]}

A row for each example keeps batches of several clients right, each with a table of its own, and
brings each table's gradient back in full. The last block takes it off.

The mask token, if there is one, only pretraining uses: it is stage 0's, and no gradient reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fedsplit.boundary import State
from fedsplit.models.families.blocks import block_stages, run_block
from fedsplit.models.family import Family
from fedsplit.models.image_sizes import CONFIG_KEY, patch_size
from fedsplit.models.stages import Root, Stage


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `BeitForImageClassification`."""
    # A block needs the images' size to look up its own bias.
    chosen = getattr(model.config, CONFIG_KEY, 0)
    own = tuple(model.beit.embeddings.patch_embeddings.image_size)
    size = (chosen, chosen) if chosen else own
    embeddings = Stage("embeddings", ("beit.embeddings",), partial(_embed, size))
    blocks = block_stages(model, "beit.layers", resolution=size)
    head = Stage("head", ("beit.layernorm", "beit.pooler", "classifier"), _head)
    if model.beit.shared_position_bias is None:
        return [embeddings, *blocks, head]
    window = tuple(side // model.config.patch_size for side in size)
    kinds = model.beit.shared_position_bias.generate_relative_position_index(window)
    paths = (*embeddings.paths, "beit.shared_position_bias")
    run = partial(_embed_with_table, size, window, kinds.flatten())
    return [
        replace(embeddings, paths=paths, run=run),
        *(_with_table(block, size, kinds, last=block is blocks[-1]) for block in blocks),
        head,
    ]


def _embed(size: tuple[int, int], root: Root, images: Tensor) -> Tensor:
    if images.shape[2:] != size:
        raise ValueError(f"Images must be {size[0]}x{size[1]}, not {list(images.shape[2:])}.")
    embeddings = root.beit.embeddings
    hidden: Tensor = embeddings(images.to(embeddings.cls_token.dtype))
    return hidden


def _embed_with_table(
    size: tuple[int, int], window: tuple[int, int], kinds: Tensor, root: Root, images: Tensor
) -> dict[str, Tensor]:
    hidden = _embed(size, root, images)
    # [heads, (N+1)^2]; from it, not as stored, because transformers resamples what is stored.
    bias = root.beit.shared_position_bias(window)[0].flatten(1)
    anywhere = torch.zeros(int(kinds.max()) + 1, dtype=torch.int64)
    anywhere[kinds] = torch.arange(len(kinds))  # any one place of each kind
    table = bias[:, anywhere].transpose(0, 1)
    return {"hidden": hidden, "bias_table": table.expand(len(hidden), -1, -1)}


def _with_table(block: Stage, size: tuple[int, int], kinds: Tensor, *, last: bool) -> Stage:
    find_block = attrgetter(*block.paths)
    return replace(block, run=partial(_block_with_table, find_block, size, kinds, last))


def _block_with_table(
    find_block: attrgetter[Any],
    size: tuple[int, int],
    kinds: Tensor,
    last: bool,
    root: Root,
    state: dict[str, Tensor],
) -> State:
    by_head = state["bias_table"].transpose(1, 2)
    bias = by_head.index_select(2, kinds.flatten().to(by_head.device))
    bias = bias.reshape(*by_head.shape[:2], *kinds.shape)
    hidden = run_block(find_block(root), state["hidden"], attention_mask=bias, resolution=size)
    return hidden if last else {**state, "hidden": hidden}


def _head(root: Root, hidden: Tensor) -> Tensor:
    logits: Tensor = root.classifier(root.beit.pooler(root.beit.layernorm(hidden)))
    return logits


FAMILY = Family(
    "beit",
    model_class="transformers.models.beit.modeling_beit:BeitForImageClassification",
    stages=stages,
    model_type="beit",
    # Pretraining has no pooler, so its norm is drawn afresh with the classifier.
    head=("classifier.", "beit.pooler."),
    ignored_keys=("lm_head.", "layernorm."),
    image_processor="ViTImageProcessor",
    size_step=patch_size,
    unused_weights=("beit.embeddings.mask_token",),
)
