"""Attention on the meta device as the CPU computes it: in one kernel that keeps no products.

By default, torch decomposes attention on the meta device, and autograd saves the [N, N] weights of
each head. In training on the CPU it does not save them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class FusedAttention(TorchFunctionMode):
    """Inside this context, attention on the meta device saves what it saves on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - the contract of torch
        """Replace the two functions of torch that compute attention."""
        if func is nn.functional.scaled_dot_product_attention:
            func = _attention
        elif func is nn.functional.multi_head_attention_forward:
            func = _many_headed
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Do what torch does on the CPU, whose kernel takes neither dropout nor trainable masks."""
    learnt = attn_mask is not None and attn_mask.requires_grad
    if dropout_p or learnt or enable_gqa or not query.is_meta:
        return nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output: Tensor = kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return output


_TORCH_OWN = nn.functional.multi_head_attention_forward
# A mode does not see calls inside a function that it has intercepted. So this is the code of torch
# itself, with the attention above and without its check for an active mode.
_many_headed = FunctionType(
    _TORCH_OWN.__code__,
    {
        **_TORCH_OWN.__globals__,
        "scaled_dot_product_attention": _attention,
        "has_torch_function": lambda tensors: False,
    },
    _TORCH_OWN.__name__,
    _TORCH_OWN.__defaults__,
    _TORCH_OWN.__closure__,
)
