"""The memory of one training step at each side, computed without using that memory.

It counts parameters, gradients, the state of the optimizer, and activations: the tensors that
autograd saves for the backward pass. It does not count temporary tensors of an operation, buffers,
the few numbers of the loss, torch itself, and images that wait to be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.boundary import State, each
from fedsplit.models.stages import storage_free_copy
from fedsplit.results.flops import images_on_meta, leaves_on_meta, tensors_of
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

    Nothing is computed or allocated: copies of the parts run on the meta device, in train mode.
    Attention counts as in the fused kernel of torch on the CPU (see `fused_attention`).

    Parameters
    ----------
    parts : Sequence[nn.Module]
        The parts, in the order in which they run. The output of a part counts where it is saved.
    input_shape : Sequence[int]
        The shape of one image, without a batch axis: [channels, height, width].
    batch_size : int
        Images in the step.
    make_optimizer : MakeOptimizer
        Returns the optimizer for the parameters of a part.
    """
    state: State = images_on_meta(parts[0], input_shape, batch_size)
    found = []
    for part in parts:
        empty = storage_free_copy(part).train()
        activation_bytes, state = _saved_bytes(empty, leaves_on_meta(state))
        training = [p for p in empty.parameters() if p.requires_grad]
        found.append(
            TrainingMemory(
                parameter_bytes=_total(empty.parameters()),
                gradient_bytes=_total(training),
                optimizer_bytes=_optimizer_bytes(training, make_optimizer),
                activation_bytes=activation_bytes,
            )
        )
    return found


def _saved_bytes(part: nn.Module, state: State) -> tuple[int, State]:
    """Run a forward pass, and count each storage that autograd saves once."""
    known = {_identity(parameter) for parameter in part.parameters()}
    saved: dict[int, Tensor] = {}  # keeps the tensors: the identity of a freed one is reused

    def pack(tensor: Tensor) -> Tensor:
        if _identity(tensor) not in known:
            saved.setdefault(_identity(tensor), tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.enable_grad(), hooks, FusedAttention():
        # Copies, as in a step: a part may begin with an in-place operation.
        output = part(each(state, torch.clone))
    assert all(tensor.is_meta for tensor in tensors_of(output) if tensor.is_floating_point())
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()), output


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
