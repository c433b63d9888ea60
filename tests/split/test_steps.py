from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedsplit.boundary import State, by_name
from fedsplit.errors import ChannelError
from fedsplit.split.steps import (
    PendingStep,
    check_gradients,
    evaluate_step,
    input_gradient,
    output_gradient,
    score,
)
from tests.split.reference import server_step
from tests.split.toys import (
    assert_same_bits,
    config_of,
    optimizer_of,
    optimizer_state,
    server_part_of,
    weights_of,
)

HIDDEN = torch.linspace(-1, 1, 12).reshape(3, 4)
LABELS = torch.tensor([0, 4, 2])


def test_score_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0], [0.0, math.log(3)]])
    loss, num_correct = score(logits.requires_grad_(), torch.tensor([1, 1, 0]))
    expected = (math.log(4 / 3) + math.log(4) + math.log(4)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert loss.requires_grad
    assert (num_correct.item(), num_correct.dtype) == (1, torch.int64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_float32_whatever_the_logits_are(dtype: torch.dtype) -> None:
    """Break it: compute it in the dtype of the logits, which cannot tell 1e-4 from 1e-5."""
    logits = torch.tensor([[9.5, 0.0], [11.5, 0.0]], dtype=dtype)
    losses = [score(row[None], torch.tensor([0])).loss for row in logits]
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert [loss.item() for loss in losses] == [
        pytest.approx(math.log1p(math.exp(-margin)), rel=1e-2) for margin in (9.5, 11.5)
    ]


@pytest.mark.parametrize("enabled", [True, False])
def test_server_step_is_one_sgd_step_and_the_gradient(enabled: bool) -> None:
    server_part, reference = server_part_of(), server_part_of()
    optimizer = optimizer_of(server_part.parameters(), config_of(learning_rate=0.1))
    with torch.set_grad_enabled(enabled):
        result, gradient = server_step(server_part, optimizer, HIDDEN, LABELS)
    leaf = HIDDEN.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(reference(leaf), LABELS)
    gradients = torch.autograd.grad(loss, [leaf, *reference.parameters()])
    assert result.loss.item() == loss.item()
    assert isinstance(gradient, Tensor)
    assert torch.equal(gradient, gradients[0])
    pairs = zip(reference.parameters(), gradients[1:], server_part.parameters(), strict=True)
    for before, slope, after in pairs:
        torch.testing.assert_close(after, before - 0.1 * slope, atol=1e-7, rtol=0)
    assert not HIDDEN.requires_grad


def test_gradients_do_not_pile_up() -> None:
    server_part = nn.Linear(4, 5)
    optimizer = SGD(server_part.parameters(), lr=0.0)
    first = server_step(server_part, optimizer, HIDDEN, LABELS)
    second = server_step(server_part, optimizer, HIDDEN, LABELS)
    assert isinstance(first[1], Tensor)
    assert isinstance(second[1], Tensor)
    assert torch.equal(first[1], second[1])


class _Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(3, 5)

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.places(state["place"]) + state["a"] + state["b"]
        return logits


def test_a_tree_gets_gradients_for_its_floats() -> None:
    state = {
        "b": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
        "place": torch.tensor([0, 1, 2]),
        "unused": torch.ones(3, 2),
        "a": torch.zeros(3, 5),
    }
    tree = _Tree()
    optimizer = SGD(tree.parameters(), lr=0.1)
    _, gradient = server_step(tree, optimizer, state, LABELS)
    assert isinstance(gradient, dict)
    assert list(gradient) == ["b", "unused", "a"]
    assert torch.equal(gradient["unused"], torch.zeros(3, 2))
    assert torch.equal(gradient["a"], gradient["b"])
    assert gradient["a"].abs().sum() > 0
    # Separate tensors: the next reader may change one in place.
    assert gradient["a"].data_ptr() != gradient["b"].data_ptr()


@pytest.mark.parametrize("tree", [False, True])
def test_a_server_part_may_begin_in_place_and_the_clients_tensor_stays(tree: bool) -> None:
    class InPlace(nn.Linear):
        def forward(self, state: State) -> Tensor:
            return super().forward((state["a"] if isinstance(state, dict) else state).relu_())

    server_part = InPlace(4, 5)
    smashed = HIDDEN.clone()
    state: State = {"a": smashed} if tree else smashed
    _, gradient = server_step(server_part, SGD(server_part.parameters(), lr=0.1), state, LABELS)
    cut_gradient = gradient["a"] if isinstance(gradient, dict) else gradient
    assert torch.equal(smashed, HIDDEN)
    assert torch.equal(cut_gradient != 0, HIDDEN > 0)


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30])
@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_changes_nothing(value: float, optimizer_name: str) -> None:
    server_part = nn.Linear(4, 5)
    with torch.no_grad():
        server_part.weight.copy_(torch.arange(20.0).reshape(5, 4) * 1e20)
    optimizer = optimizer_of(server_part.parameters(), config_of(optimizer=optimizer_name))
    server_step(server_part, optimizer, HIDDEN * 1e-22, LABELS)  # momentum is there now
    before, state = weights_of(server_part), optimizer_state(optimizer)
    with pytest.raises(ChannelError, match=r"loss of a batch is (inf|nan)\. Lower learning-rate"):
        server_step(server_part, optimizer, HIDDEN * value, LABELS)
    assert_same_bits(weights_of(server_part), before)
    after = optimizer_state(optimizer)
    assert state
    assert all(torch.equal(x, y) for x, y in zip(state, after, strict=True))


def test_an_infinite_loss_is_refused_though_its_gradient_is_finite() -> None:
    server_part = nn.Linear(4, 5, bias=False)
    with torch.no_grad():
        server_part.weight.zero_()[:, 0] = torch.tensor([3e38, -3e38, 0.0, 0.0, 0.0])
    before = weights_of(server_part)
    optimizer = optimizer_of(server_part.parameters(), config_of())
    with pytest.raises(ChannelError, match="loss of a batch is inf"):
        server_step(server_part, optimizer, torch.eye(4)[:1], torch.tensor([1]))
    assert_same_bits(weights_of(server_part), before)


def test_evaluate_step_scores_and_leaves_no_graph() -> None:
    server_part = server_part_of()
    before = weights_of(server_part)
    loss, num_correct = evaluate_step(server_part, HIDDEN.clone().requires_grad_(), LABELS)
    expected = score(server_part(HIDDEN), LABELS)
    assert (loss.item(), num_correct.item()) == (expected.loss.item(), expected.num_correct.item())
    assert not loss.requires_grad
    assert all(parameter.grad is None for parameter in server_part.parameters())
    assert_same_bits(weights_of(server_part), before)


def _with_gradients(*values: float) -> nn.Module:
    part = nn.Linear(2, 2)
    for weight, value in zip(part.parameters(), values, strict=True):
        weight.grad = torch.full_like(weight, value)
    return part


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_refused(value: float) -> None:
    """Break it: look at the first tensor only."""
    check_gradients(_with_gradients(1.0, -1.0))
    check_gradients(nn.Linear(2, 2))  # without gradients
    with pytest.raises(ChannelError, match=r"gradient of a step .* Lower learning-rate"):
        check_gradients(_with_gradients(1.0, value))


def test_a_pending_step_is_the_joined_models_backward_pass() -> None:
    part, reference = server_part_of(), server_part_of()
    pending = PendingStep(part, HIDDEN)
    assert isinstance(pending.output, Tensor)
    assert not pending.output.requires_grad
    result, gradient = output_gradient(pending.output, LABELS)
    cut_gradient = pending.backward(gradient)
    leaf = HIDDEN.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(reference(leaf), LABELS)
    torch.autograd.backward(loss)
    assert result.loss.item() == loss.item()
    assert isinstance(cut_gradient, Tensor)
    assert leaf.grad is not None
    torch.testing.assert_close(cut_gradient, leaf.grad, atol=1e-7, rtol=0)
    for one, other in zip(part.parameters(), reference.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=0)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_gradient_of_the_output_by_hand(enabled: bool) -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    with torch.set_grad_enabled(enabled):
        result, gradient = output_gradient(logits, torch.tensor([1, 1]))
    assert result.loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, abs=1e-6)
    expected = torch.tensor([[0.25, -0.25], [0.75, -0.75]]) / 2  # (softmax - onehot) / B
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)
    assert not result.loss.requires_grad
    assert logits.grad is None


def test_the_gradient_of_an_output_leaves_the_weights_of_a_top_alone() -> None:
    """Break it: call `backward`; the first step of a client's top would take two gradients."""
    top, labels = nn.Linear(3, 2), torch.tensor([0, 1, 1, 0])
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    found = input_gradient(lambda s: top(by_name(s)["a"]), {"a": output, "n": labels}, labels)
    assert isinstance(found, dict)
    assert list(found) == ["a"]
    probabilities = top(output).softmax(dim=1)
    expected = (probabilities - nn.functional.one_hot(labels, 2)) @ top.weight / 4
    torch.testing.assert_close(found["a"], expected)
    assert top.weight.grad is None
