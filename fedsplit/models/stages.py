"""A model as a chain of stages, and a `Part` that holds a run of them.

A stage owns paths of the whole model and computes on a *root*: any module in which those paths
lead to the stage's modules. The whole model is a root, and so is a `Part`, because it registers
the modules it holds under the same paths. So state-dict keys never change, and a stage holds no
reference to a module that a deep copy, `.to_empty` or a merge would have to mend.

Shapes: B batch, N patches, D width, L blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self, TypeVar

import torch
from torch import nn

from fedsplit.boundary import State, each, has_numbers
from fedsplit.errors import ModelError
from fedsplit.exchanged_state import rest_frozen

M = TypeVar("M", bound=nn.Module)

Root = Any
"""A module whose attributes are those that the family expects."""


@dataclass(frozen=True)
class Stage:
    """One link of the chain: 0 embeddings, 1..L blocks, L+1 head.

    Parameters
    ----------
    name : str
        As people call it, for example ``block 3``.
    paths : tuple[str, ...]
        Modules or lone parameters of the whole model that the stage owns, for example
        ``("vit.layers.3",)``. Every parameter has exactly one owner.
    run : Callable[[root, state], state]
        The computation. It reaches its modules through the root: ``root.vit.layernorm(state)``.
    """

    name: str
    paths: tuple[str, ...]
    run: Callable[[Root, Any], State]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # immutable, and refers to no module


@dataclass(frozen=True)
class Chain:
    """All stages of a model, and its shell: the same modules without storage, for `merge`."""

    stages: tuple[Stage, ...]
    shell: nn.Module

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # the shell is never changed, only copied

    def matches(self, other: Chain) -> bool:
        """Whether both are chains of the same architecture (not necessarily one model)."""
        return self is other or (
            type(self.shell) is type(other.shell)
            and [(s.name, s.paths) for s in self.stages]
            == [(s.name, s.paths) for s in other.stages]
        )


class Part(nn.Module):
    """The stages [start, end) of a chain, as one module. An empty part is the identity.

    The keys of `state_dict` are the whole model's, for example ``vit.layers.3.mlp.fc1.weight``.
    A deep copy has tensors of its own; a model's configuration object stays shared, as it is
    between the modules of one model.

    Parameters
    ----------
    chain : Chain
        The whole model's stages.
    start, end : int
        Which of them this part runs.
    roots : Sequence[nn.Module]
        For each stage of this part, the module in which its paths are found. The modules are
        taken over by reference: parameters are shared with the root.

    Attributes
    ----------
    autocast : torch.dtype | None
        In which dtype torch may compute what allows it; the weights, and what passes between
        parts, keep their own. None computes in the dtype of the weights.
    """

    autocast: torch.dtype | None = None

    def __init__(self, chain: Chain, start: int, end: int, roots: Sequence[nn.Module]) -> None:
        super().__init__()
        self.chain = chain
        self.start = start
        self.end = end
        self._stages = chain.stages[start:end]
        for stage, root in zip(self._stages, roots, strict=True):
            for path in stage.paths:
                plant(self, path, find(root, path))
        self.training = (roots[0] if roots else chain.shell).training

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of this part, in order."""
        return self._stages

    def forward(self, state: State) -> State:
        """Run the stages in order.

        Parameters
        ----------
        state : State
            What stage `start` takes: images [B, C, H, W] for the bottom, else the state of the
            stage before it, [B, N+1, D] for a plain ViT.

        Returns
        -------
        State
            What stage ``end - 1`` gives: smashed data, or logits [B, classes] from the head.
        """
        if self.autocast is None:
            return self._run(state)
        weight = next(self.parameters())
        with torch.autocast(weight.device.type, self.autocast):
            state = self._run(state)
        return each(state, lambda t: t.to(weight.dtype) if t.is_floating_point() else t)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen modules with buffers stay in eval mode, so that these stay fixed."""
        super().train(mode)
        rest_frozen(self)
        return self

    def _run(self, state: State) -> State:
        try:
            for stage in self._stages:
                state = stage.run(self, state)
        except RuntimeError as error:
            if any(weight.is_meta for weight in self.parameters()) and has_numbers(state):
                raise ModelError(
                    f"The part with stages [{self.start}, {self.end}) holds no weights, so it "
                    'cannot compute. Load it too: parts=("bottom", "trunk", "top").'
                ) from error
            raise
        return state

    def extra_repr(self) -> str:
        """Name the stages in the printed form."""
        names = [stage.name for stage in self._stages]
        return f"stages [{self.start}, {self.end}): {', '.join(names) or 'none'}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        _share_configurations(self, memo)
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


class _Branch(nn.Module):
    """A bare container on the way to a stage's module."""

    def forward(self, *_: object) -> State:
        raise NotImplementedError("a branch only holds modules; call the part")


def find(root: nn.Module, path: str) -> nn.Module | nn.Parameter:
    """Return the module or lone parameter at a dotted path."""
    found: nn.Module | nn.Parameter = reduce(getattr, path.split("."), root)
    return found


def graft(root: nn.Module, path: str, item: nn.Module | nn.Parameter) -> None:
    """Replace what is at a path that exists."""
    parent, _, name = path.rpartition(".")
    owner = find(root, parent) if parent else root
    assert isinstance(owner, nn.Module)
    if isinstance(item, nn.Parameter):
        owner.register_parameter(name, item)
    else:
        owner.add_module(name, item)


def plant(root: nn.Module, path: str, item: nn.Module | nn.Parameter) -> None:
    """Put a module or lone parameter at a path, and make the containers on the way."""
    *branches, _ = path.split(".")
    node = root
    for name in branches:
        if name not in node._modules:
            node.add_module(name, _Branch())
        child = node._modules[name]
        assert child is not None
        node = child
    graft(root, path, item)


def storage_free_copy(module: M) -> M:
    """Return a deep copy of a module with every parameter and buffer on the meta device."""
    memo: dict[int, Any] = {}
    _share_configurations(module, memo)
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def _share_configurations(module: nn.Module, memo: dict[int, Any]) -> None:
    # transformers' blocks share the model's configuration. A copy for each would no longer be the
    # merged model's, and calls such as set_attn_implementation would not reach the blocks.
    for child in module.modules():
        if (configuration := child.__dict__.get("config")) is not None:
            memo[id(configuration)] = configuration
