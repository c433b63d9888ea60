"""What the stages of timm's ViT and EVA have in common."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fedsplit.models.stages import Root

_TOKENS = ("cls_token", "reg_token")


def prefix_tokens(model: Root) -> tuple[str, ...]:
    """Return the names of the tokens that precede the patches."""
    return tuple(name for name in _TOKENS if getattr(model, name) is not None)


def overridden(model: Root, module: str, methods: Iterable[str]) -> str | None:
    """Return the first of the methods that a subclass has replaced, if any.

    The stages replace these methods: a subclass that overrides one is another architecture.
    """
    base = next(c for c in type(model).__mro__ if c.__module__ == module)
    changed = (name for name in methods if getattr(type(model), name) is not getattr(base, name))
    return next(changed, None)


def embed(
    tokens: tuple[str, ...],
    positioned: bool,
    patches_only: bool,
    drops: bool,
    root: Root,
    images: Tensor,
) -> Tensor:
    """Embed images [B, C, H, W] as [B, P+N, D].

    Parameters
    ----------
    tokens : tuple[str, ...]
        The names of the P tokens that precede the patches.
    positioned, patches_only : bool
        Whether the model has position embeddings, and whether only for the patches.
    drops : bool
        Whether `pos_drop` applies.
    root, images : Root, Tensor
        The model's weights, and its input.
    """
    # Images stay float32 in a bfloat16 model, as in the other families.
    hidden = root.patch_embed(images.to(root.patch_embed.proj.weight.dtype))
    if positioned and patches_only:
        hidden = hidden + root.pos_embed
    prefix = [getattr(root, name).expand(len(images), -1, -1) for name in tokens]
    hidden = torch.cat([*prefix, hidden], dim=1)
    if positioned and not patches_only:
        hidden = hidden + root.pos_embed
    embedded: Tensor = root.norm_pre(root.pos_drop(hidden) if drops else hidden)
    return embedded


def head(
    module: str,
    num_prefix: int,
    with_prefix: bool,
    kind: str,
    by_attention: bool,
    root: Root,
    hidden: Tensor,
) -> Tensor:
    """Classify [B, P+N, D]: logits [B, classes].

    Parameters
    ----------
    module : str
        timm's module that has `global_pool_nlc`.
    num_prefix, with_prefix : int, bool
        P, and whether these tokens are pooled too.
    kind, by_attention : str, bool
        timm's `global_pool`, and whether attention pools instead.
    root, hidden : Root, Tensor
        The model's weights, and the output of the last block.
    """
    hidden = root.norm(hidden)
    if by_attention:
        pooled = root.attn_pool(hidden if with_prefix else hidden[:, num_prefix:])
    else:
        pool = importlib.import_module(module).global_pool_nlc
        pooled = pool(
            hidden,
            pool_type=kind,
            num_prefix_tokens=num_prefix,
            reduce_include_prefix=with_prefix,
        )
    logits: Tensor = root.head(root.head_drop(root.fc_norm(pooled)))
    return logits


def block(find_block: attrgetter[Any], root: Root, hidden: Tensor, **options: object) -> Tensor:
    """Run one block: [B, P+N, D] -> [B, P+N, D]."""
    output: Tensor = find_block(root)(hidden, **options)
    return output
