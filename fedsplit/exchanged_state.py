"""The tensors of a module that training may change: only these are sent, copied and averaged.

A parameter is frozen if it requires no gradient. A buffer goes with the parameters beside it: a
module whose own parameters are all frozen keeps its buffers too, such as the running statistics
of a batch norm.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def trains(module: nn.Module) -> bool:
    """Return whether any parameter of a module trains."""
    return any(parameter.requires_grad for parameter in module.parameters())


def exchanged(module: nn.Module) -> dict[str, Tensor]:
    """Return the entries of a module's state dict that training may change, in its order."""
    fixed = {name for name, _ in _fixed(module)}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in fixed}


def load_exchanged(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module new values for exactly the tensors of `exchanged`; the frozen stay untouched.

    Raises
    ------
    RuntimeError
        If a name is missing or unexpected, or a shape differs.
    """
    names = exchanged(module).keys()
    wrong = {"Missing": names - state.keys(), "Unexpected": state.keys() - names}
    told = [f"{kind} key(s): {', '.join(sorted(keys))}" for kind, keys in wrong.items() if keys]
    if told:
        raise RuntimeError(f"The weights do not match those that train. {'. '.join(told)}.")
    module.load_state_dict(dict(state), strict=False)


def copy_to_train(module: M) -> M:
    """Return a deep copy that shares frozen tensors, which are never written to."""
    return copy.deepcopy(module, {id(tensor): tensor for _, tensor in _fixed(module)})


def frozen_digest(module: nn.Module, unused: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of what is frozen; "" if nothing.

    Two machines compare it to check that each has made the same frozen weights. Names that start
    with one of `unused` are left out, because nothing is computed with them.
    """
    moving, state = exchanged(module), module.state_dict()
    frozen = (name for name in state.keys() - moving.keys() if not name.startswith(unused))
    found = {name: state[name] for name in frozen}
    return tensors_digest(found) if found else ""


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of tensors, in any order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rest_frozen(module: nn.Module) -> None:
    """Put frozen modules with buffers in eval mode, so that the buffers do not change."""
    for child in module.modules():
        if _is_frozen(child) and next(child.buffers(recurse=False), None) is not None:
            child.training = False


def _is_frozen(module: nn.Module) -> bool:
    own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    return bool(own) and not any(own)


def _fixed(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, child in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in child.named_parameters(recurse=False, remove_duplicate=False):
            if not parameter.requires_grad:
                yield prefix + name, parameter
        if _is_frozen(child):
            for name, buffer in child.named_buffers(recurse=False, remove_duplicate=False):
                yield prefix + name, buffer
