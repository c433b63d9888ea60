"""Qwen3-VL (Bai et al., arXiv:2511.21631) as `transformers.Qwen3VLForConditionalGeneration`.

Stage 0 patch embedding: the model's inputs, a dict -> ``hidden`` [S, D], ``grid_thw`` [n, 3] and
the inputs that the language model wants.
Then L vision blocks: the same, and the features of DeepStack that have been tapped so far,
``deepstack_j`` [S / M^2, D'] with the gradient returning for each.
Merger: ``merged`` [S / M^2, D'] in place of ``hidden``.
Token embedding, language blocks, head -> logits [B, T, words]: see `qwen3_vl_language`.

n images in B texts; S patches in all images, M^2 of which are merged into one token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor

from fedsplit.errors import ModelError
from fedsplit.models.families import qwen3_vl_language as language
from fedsplit.models.families import qwen3_vl_vision as vision
from fedsplit.models.family import Family
from fedsplit.models.qwen3_vl_grid import Resampling, resampling_of
from fedsplit.models.stages import Root, Stage

_NEEDED = ("input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw")
_OPTIONAL = ("attention_mask",)
_CARRIED = ("input_ids", "attention_mask", "mm_token_type_ids")


def stages(model: Root) -> Sequence[Stage]:
    """List the stages of a `Qwen3VLForConditionalGeneration`."""
    visual, text = model.model.visual, model.model.language_model
    embed = partial(_embed, resampling_of(visual))
    chain = [Stage("patch embedding", (*vision.EMBEDDINGS, vision.ROTARY), embed)]
    for index in range(len(visual.blocks)):
        chain.append(_vision_block(index, list(visual.deepstack_visual_indexes)))
    chain += [
        Stage("merger", ("model.visual.merger",), _merge),
        Stage(
            "token embedding",
            (language.TOKENS, language.ROTARY),
            partial(language.embed_tokens, model.config),
        ),
    ]
    for index in range(len(text.layers)):
        path = f"model.language_model.layers.{index}"
        run = partial(language.block, index)
        chain.append(Stage(f"language block {index + 1}", (path,), run))
    return [*chain, Stage("head", ("model.language_model.norm", "lm_head"), language.head)]


def _vision_block(index: int, tapped: list[int]) -> Stage:
    name, path = f"vision block {index + 1}", f"model.visual.blocks.{index}"
    run = partial(vision.block, attrgetter(path))
    if index not in tapped:
        return Stage(name, (path,), run)
    tap = tapped.index(index)
    merger = f"model.visual.deepstack_merger_list.{tap}"
    return Stage(name, (path, merger), partial(_tap, run, f"{language.DEEPSTACK}{tap}", merger))


def _embed(resampling: Resampling, root: Root, inputs: object) -> dict[str, Tensor]:
    given = _checked(inputs)
    state = vision.embed(root, resampling, given["pixel_values"], given["image_grid_thw"])
    return {**state, **{name: given[name] for name in _CARRIED if name in given}}


def _checked(inputs: object) -> Mapping[str, Tensor]:
    names = sorted(inputs) if isinstance(inputs, Mapping) else [type(inputs).__name__]
    missing = [name for name in _NEEDED if name not in names]
    other = [name for name in names if name not in _NEEDED + _OPTIONAL]
    if missing or other:
        raise ModelError(
            f"The bottom of Qwen3-VL got {', '.join(names) or 'nothing'}. Give it a dict of "
            f"{', '.join(_NEEDED)}, and {_OPTIONAL[0]} where there is padding; texts without any "
            "image and films are not split."
        )
    assert isinstance(inputs, Mapping)
    return inputs


def _tap(
    block: Any,  # noqa: ANN401 - a partial of vision.block
    name: str,
    merger: str,
    root: Root,
    state: dict[str, Tensor],
) -> dict[str, Tensor]:
    state = block(root, state)
    return {**state, name: attrgetter(merger)(root)(state["hidden"])}


def _merge(root: Root, state: dict[str, Tensor]) -> dict[str, Tensor]:
    rest = {name: tensor for name, tensor in state.items() if name != "hidden"}
    return {"merged": root.model.visual.merger(state["hidden"]), **rest}


FAMILY = Family(
    "qwen3-vl",
    model_class="transformers.models.qwen3_vl.modeling_qwen3_vl:Qwen3VLForConditionalGeneration",
    stages=stages,
    model_type="qwen3_vl",
    head=(),
    image_shape=vision.image_shape,
)
