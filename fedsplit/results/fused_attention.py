"""Attention on the meta device as the CPU computes it: in one kernel that keeps no products.

Left to itself, torch takes attention apart on the meta device, and autograd would save the [N, N]
weights of every head, which it does not in training.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class FusedAttention(TorchFunctionMode):
    """While it is entered, attention on the meta device saves what it saves on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's own contract
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
    """Do what torch does on the CPU, where its kernel takes neither dropout nor learnt masks."""
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
# A mode does not see what is called inside a function that it has been shown. So this is torch's
# own code, with another attention in it, and without the question whether there is a mode.
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
