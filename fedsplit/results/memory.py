"""The memory of one training step at each side, computed without using that memory.

It counts parameters, gradients, the state of the optimizer, and activations: the tensors that
autograd saves for the backward pass. It does not count temporary tensors of an operation, buffers,
the few numbers of the loss, torch itself, and images that wait to be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.boundary import State
from fedsplit.models.stages import storage_free_copy
from fedsplit.results.flops import images_on_meta, tensors_of
from fedsplit.results.fused_attention import FusedAttention

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class TrainingMemory:
    """The memory of one training step of a part, in bytes.

    Attributes
    ----------
    parameter_bytes : int
        All parameters.
    gradient_bytes : int
        Gradients of the trainable parameters, which themselves take as many bytes.
    optimizer_bytes : int
        The state of the optimizer after a step.
    activation_bytes : int
        What autograd saves for the backward pass, without parameters.
    """

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return the sum, for one participant at a time."""
        return self.parameter_bytes + self._of_each

    def total_with_copies(self, copies: int) -> int:
        """Return the sum for `copies` participants that train at the same time, each on its copy.

        The part itself is kept beside the copies. Frozen parameters are not copied.
        """
        return self.parameter_bytes + copies * (self.gradient_bytes + self._of_each)

    @property
    def _of_each(self) -> int:
        return self.gradient_bytes + self.optimizer_bytes + self.activation_bytes


def together(parts: Iterable[TrainingMemory]) -> TrainingMemory:
    """Return the sum of the parts that one side holds: zeros if it holds none."""
    found = list(parts)
    return TrainingMemory(
        *(sum(getattr(memory, field.name) for memory in found) for field in fields(TrainingMemory))
    )


def part_memory(
    parts: Sequence[nn.Module],
    input_shape: Sequence[int],
    batch_size: int,
    make_optimizer: MakeOptimizer,
) -> list[TrainingMemory]:
    """Return the memory of one training step with a batch, for each part of a chain.

    The parameters are those of `ChainMemory`.
    """
    chain = ChainMemory(parts, input_shape, batch_size, make_optimizer)
    return [chain.of(index, index + 1) for index in range(len(parts))]


class ChainMemory:
    """The memory of one training step with a batch, for any stretch of a chain of modules.

    Nothing is computed or allocated: copies of the modules run on the meta device, in train mode.
    Attention counts as in the fused kernel of torch on the CPU (see `fused_attention`).

    Parameters
    ----------
    modules : Sequence[nn.Module]
        The modules, in the order in which they run. None shares a parameter with another one.
    input_shape : Sequence[int]
        The shape of one image, without a batch axis: [channels, height, width].
    batch_size : int
        Images in the step.
    make_optimizer : MakeOptimizer
        Returns the optimizer for the parameters of a module.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        input_shape: Sequence[int],
        batch_size: int,
        make_optimizer: MakeOptimizer,
    ) -> None:
        copies = [storage_free_copy(module).train() for module in modules]
        self._weights = [_weights(copy, make_optimizer) for copy in copies]
        self._inputs: list[list[Tensor]] = []
        self._saved: list[dict[int, Tensor]] = []
        known = {_identity(weight) for copy in copies for weight in copy.parameters()}
        state: State = images_on_meta(modules[0], input_shape, batch_size)
        for copy in copies:
            self._inputs.append(tensors_of(state))
            saved, state = _saved_by(copy, state, known)
            self._saved.append(saved)

    def of(self, start: int, end: int) -> TrainingMemory:
        """Return the memory of the modules [start, end), joined to one part.

        What a part takes is a tensor of the part's own. Its output counts where it is saved.
        """
        weights = together(self._weights[start:end])
        saved = {at: t for module in self._saved[start:end] for at, t in module.items()}
        sizes = {at: tensor.untyped_storage().nbytes() for at, tensor in saved.items()}
        taken = self._inputs[start]
        for at in sizes.keys() & {_identity(tensor) for tensor in taken}:
            # It crosses the boundary without the rest of the storage that it may be a view of.
            sizes[at] = _total(tensor for tensor in taken if _identity(tensor) == at)
        return replace(weights, activation_bytes=sum(sizes.values()))


def _weights(module: nn.Module, make_optimizer: MakeOptimizer) -> TrainingMemory:
    training = [p for p in module.parameters() if p.requires_grad]
    return TrainingMemory(
        parameter_bytes=_total(module.parameters()),
        gradient_bytes=_total(training),
        optimizer_bytes=_optimizer_bytes(training, make_optimizer),
        activation_bytes=0,
    )


def _saved_by(module: nn.Module, state: State, known: set[int]) -> tuple[dict[int, Tensor], State]:
    """Run a forward pass; return what autograd saves, one tensor for each storage."""
    saved: dict[int, Tensor] = {}  # keeps the tensors: the identity of a freed one is reused

    def pack(tensor: Tensor) -> Tensor:
        if _identity(tensor) not in known:
            saved.setdefault(_identity(tensor), tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.enable_grad(), hooks, FusedAttention():
        output = module(state)
    assert all(tensor.is_meta for tensor in tensors_of(output) if tensor.is_floating_point())
    return saved, output


def _identity(tensor: Tensor) -> int:
    # On the meta device, every storage begins at address 0, but is an object of its own.
    return int(tensor.untyped_storage()._cdata)


def _optimizer_bytes(parameters: Sequence[nn.Parameter], make_optimizer: MakeOptimizer) -> int:
    optimizer = make_optimizer(parameters)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    states = (value for state in optimizer.state.values() for value in state.values())
    return _total(value for value in states if isinstance(value, Tensor))


def _total(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
