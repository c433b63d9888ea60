"""The stages of Qwen3-VL's language model.

State from the token embedding on: ``hidden`` [B, T, D], ``position_ids`` int64 [B, 3, T] (frame,
row and column of each token), ``attention_mask`` [B, T] if one was given, and while features of
DeepStack (Meng et al., arXiv:2406.04334) have still to be added, ``deepstack_j`` [S / M^2, D] and
``image_mask`` bool [B, T], which says where. T tokens of a text with its images.
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from fedsplit.errors import ModelError
from fedsplit.models.stages import Root

TOKENS = "model.language_model.embed_tokens"
ROTARY = "model.language_model.rotary_emb"  # as in the vision tower: computed afresh
DEEPSTACK = "deepstack_"


def embed_tokens(config: Root, root: Root, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Embed the tokens and put the merged features in the images' places.

    Raises
    ------
    ModelError
        If there are more or fewer places than features.
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

    ids, merged = state["input_ids"], state["merged"]
    image_mask = ids == config.image_token_id
    if (places := int(image_mask.sum())) != len(merged):
        raise ModelError(
            f"input_ids has {places} image tokens (id {config.image_token_id}), but the images "
            f"have {len(merged)} merged features. Take both from one call of the processor."
        )
    # No part holds a Qwen3VLModel; these methods use nothing else of it.
    model_class: Any = Qwen3VLModel
    method = partial(model_class.get_vision_position_ids, None)
    positions, _ = model_class.get_rope_index(
        SimpleNamespace(config=config, get_vision_position_ids=method),
        ids,
        mm_token_type_ids=state["mm_token_type_ids"],
        image_grid_thw=state["grid_thw"].cpu(),
        attention_mask=state.get("attention_mask"),
    )
    hidden = root.model.language_model.embed_tokens(ids)
    carried = {n: t for n, t in state.items() if n == "attention_mask" or n.startswith(DEEPSTACK)}
    return _without_spent_mask(
        {
            "hidden": hidden.masked_scatter(image_mask[..., None], merged.to(hidden.dtype)),
            "position_ids": positions.transpose(0, 1),
            **carried,
            "image_mask": image_mask,
        }
    )


def block(index: int, root: Root, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run block `index` (from 0), then add its DeepStack features, if any."""
    from transformers.masking_utils import create_causal_mask
    from transformers.models.qwen3_vl.modeling_qwen3_vl import (
        Qwen3VLTextModel,
        Qwen3VLTextRotaryEmbedding,
    )

    module: Any = attrgetter(f"model.language_model.layers.{index}")(root)
    config = module.self_attn.config
    state = dict(state)
    hidden = state["hidden"]
    hidden = module(
        hidden,
        attention_mask=create_causal_mask(
            config=config,
            inputs_embeds=hidden,
            attention_mask=state.get("attention_mask"),
            past_key_values=None,
        ),
        position_embeddings=Qwen3VLTextRotaryEmbedding(config)(
            hidden, state["position_ids"].transpose(0, 1)
        ),
    )
    features = state.pop(f"{DEEPSTACK}{index}", None)
    if features is not None:
        text_class: Any = Qwen3VLTextModel  # its method uses nothing of it
        hidden = text_class._deepstack_process(None, hidden, state["image_mask"], features)
    return _without_spent_mask({**state, "hidden": hidden})


def head(root: Root, state: dict[str, Tensor]) -> Tensor:
    """Return logits [B, T, words]."""
    logits: Tensor = root.lm_head(root.model.language_model.norm(state["hidden"]))
    return logits


def _without_spent_mask(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(name.startswith(DEEPSTACK) for name in state):
        state.pop("image_mask", None)
    return state
