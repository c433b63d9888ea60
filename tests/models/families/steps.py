"""What a whole model and its parts compute in a step, in twenty, and in another dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.boundary import State
from fedsplit.models import SplitModel, load_split_model
from tests.models.families.qwen3_vl_toys import across, send_back

STEPS = 20
LossOf = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What one batch of images gives, by autograd alone."""

    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]
    image_gradient: Tensor


def whole_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Compute with the whole model, and with its own loss where it has one."""
    own_loss = hasattr(model, "config") and not type(model).__name__.endswith("WithTeacher")
    model.zero_grad()
    images = images.clone().requires_grad_()
    output = model(images, labels=labels) if own_loss else model(images)
    loss = output.loss if own_loss else cross_entropy(logits_of(output), labels)
    torch.autograd.backward(loss)
    assert images.grad is not None
    return Step(logits_of(output).detach(), loss.detach(), gradients_of(model), images.grad)


def joined_step(parts: SplitModel, images: Tensor, labels: Tensor) -> Step:
    """Compute with the parts as one chain."""
    for part in parts:
        part.zero_grad()
    images = images.clone().requires_grad_()
    logits = parts.top(parts.trunk(parts.bottom(images)))
    loss = cross_entropy(logits, labels)
    torch.autograd.backward(loss)
    assert images.grad is not None
    return Step(logits.detach(), loss.detach(), gradients_of(*parts), images.grad)


def split_step(
    bottom: nn.Module,
    server: nn.Module,
    inputs: State,
    labels: Tensor,
    loss_of: LossOf = cross_entropy,
) -> Tensor:
    """One exchange as over the wire: the graph ends at the cut."""
    smashed = bottom(inputs)
    received = across(named(smashed))
    state = received["hidden"] if isinstance(smashed, Tensor) else received
    loss = loss_of(server(state), labels)
    torch.autograd.backward(loss)
    send_back(named(smashed), received)
    return loss.detach()


def logits_of(output: Any) -> Tensor:  # noqa: ANN401 - of any library
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def named(state: State) -> dict[str, Tensor]:
    return {"hidden": state} if isinstance(state, Tensor) else state


def gradients_of(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for module in modules
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def assert_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        error = (tensor - other[name]).abs().max().item()
        assert math.isfinite(error), name
        assert error <= 1e-5, f"{name}: {error}"


def assert_same_step(one: Step, other: Step) -> None:
    assert_close(
        {"logits": one.logits, "loss": one.loss, "images": one.image_gradient},
        {"logits": other.logits, "loss": other.loss, "images": other.image_gradient},
    )
    assert_close(one.gradients, other.gradients)


def assert_same_training(
    model: nn.Module,
    splits: Sequence[SplitModel],
    draw: Callable[[int], tuple[State, Tensor]],
    loss_of: LossOf = cross_entropy,
) -> None:
    """Train the model and split copies of it, and see that losses and weights stay the same."""
    modules = [model, *(nn.ModuleList(parts) for parts in splits)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.02, momentum=0.9) for m in modules]
    initial = {name: tensor.clone() for name, tensor in model.named_parameters()}
    for step in range(STEPS):
        inputs, labels = draw(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        output = model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
        loss = loss_of(logits_of(output), labels)
        torch.autograd.backward(loss)
        for parts in splits:
            there = split_step(parts.bottom, parts.server_part(), inputs, labels, loss_of)
            assert (there - loss).abs() <= 1e-5
        for optimizer in optimizers:
            optimizer.step()
    for parts in splits:
        assert_close(parts.merge().state_dict(), model.state_dict())
    moved = [(p - initial[name]).abs().max() for name, p in model.named_parameters()]
    assert max(moved) > 0.01


# What rounding makes of the logits of small models, at most.
NEAR = {torch.bfloat16: 0.1, torch.float16: 0.01}


def assert_trains_in(
    dtype: torch.dtype,
    directory: str,
    inputs: State,
    labels: Tensor,
    loss_of: LossOf = cross_entropy,
) -> None:
    """Load parts in a dtype, and step with them as in float32 but for the rounding."""
    logits = {}
    for asked in (torch.float32, dtype):
        parts = load_split_model(directory, [1, 2], dtype=asked)
        smashed = parts.bottom(inputs)
        states = [*named(smashed).values(), *named(parts.trunk(smashed)).values()]
        assert {state.dtype for state in states if state.is_floating_point()} == {asked}
        logits[asked] = parts.top(parts.trunk(smashed))
        assert logits[asked].dtype == asked
        torch.autograd.backward(loss_of(logits[asked].float(), labels))
        gradients = gradients_of(*parts)
        assert gradients.keys()
        assert {gradient.dtype for gradient in gradients.values()} == {asked}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
    exact = logits[torch.float32].detach()
    assert 0 < (logits[dtype] - exact).abs().max() / exact.abs().max() < NEAR[dtype]
