"""Tied parameters, which have two names: such as a word embedding and the output layer."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from fedsplit.errors import ModelError
from fedsplit.models.stages import find, graft


def tie_again(model: nn.Module, shell: nn.Module) -> None:
    """Tie in the model the parameters that are tied in the shell.

    Raises
    ------
    ModelError
        If copies of one parameter differ, because their parts were trained apart.
    """
    names_of: dict[int, list[str]] = defaultdict(list)
    for name, parameter in shell.named_parameters(remove_duplicate=False):
        names_of[id(parameter)].append(name)
    for first, *others in names_of.values():
        for other in others:
            _check_equal(model, first, other)
            kept = find(model, first)
            graft(model, other, kept)


def _check_equal(model: nn.Module, first: str, other: str) -> None:
    one, two = find(model, first), find(model, other)
    assert isinstance(one, nn.Parameter)
    assert isinstance(two, nn.Parameter)
    if one is two or one.is_meta or two.is_meta:
        return
    if one.dtype != two.dtype or not torch.equal(one.cpu(), two.cpu()):
        gap = (one.detach().cpu().double() - two.detach().cpu().double()).abs().max().item()
        raise ModelError(
            f"{first} and {other} are one parameter of {type(model).__name__}, but the parts hold "
            f"two that differ by up to {gap:.3g}: they were trained apart. Hold both stages in one "
            "part or freeze them, or copy one into the other before merging."
        )
