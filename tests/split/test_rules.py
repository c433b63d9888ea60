"""Properties of every update rule; each rule's arithmetic is in the test of its name."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from fedsplit.errors import ChannelError
from fedsplit.snapshot import Snapshot, flat, from_bytes, to_bytes
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.lockstep import GiveUp
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import RuleSettings, UpdateRule
from fedsplit.split.server import SplitServer
from tests.split.reference import at_once, data_of, order_in, serving, train_round
from tests.split.toys import (
    CUT,
    Serve,
    Weights,
    assert_same_bits,
    config_of,
    server_part_of,
    settings_of,
    weights_of,
)

RULES: list[type[UpdateRule]] = [PerParticipantCopies, InTurn, Concatenated]
DATA = data_of(k0=(8, 8, 3), k1=(8, 1), k3=(5, 5, 5))
SMASHED, LABELS = torch.linspace(-1, 1, 12).reshape(3, 4), torch.tensor([0, 4, 2])


def through_bytes(state: Snapshot) -> Snapshot:
    return from_bytes(to_bytes(state))


def train(server: SplitServer, address: str, rounds: range, optimizer: str) -> Weights:
    for server_round in rounds:
        train_round(
            server,
            address,
            {k: DATA[k] for k in ((0, 1, 3), (1, 3), (0, 3))[server_round % 3]},
            server_round=server_round,
            config=config_of(optimizer=optimizer),
        )
    return weights_of(server.server_part)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", RULES)
def test_a_server_continues_from_its_state_bit_for_bit(
    serve_direct: Serve, kind: type[UpdateRule], optimizer: str
) -> None:
    """Break it: leave the optimizer out of `SharedServerPart.state_dict`, or the server part."""
    config = config_of(optimizer=optimizer, momentum=0.9, learning_rate=0.05)
    whole, first, second = (serving(kind, config) for _ in range(3))
    expected = train(whole, serve_direct(whole), range(1, 5), optimizer)
    halfway = train(first, serve_direct(first), range(1, 3), optimizer)
    state = through_bytes(first.state_dict())
    with torch.no_grad():
        for weight in second.server_part.parameters():
            weight.add_(1.0)  # whatever it starts with
    second.load_state_dict(state)
    assert_same_bits(weights_of(second.server_part), halfway)
    found = train(second, serve_direct(second), range(3, 5), optimizer)
    assert_same_bits(found, expected)
    assert any(not torch.equal(found[name], halfway[name]) for name in found)
    if kind is InTurn:
        assert order_in(second) == order_in(whole)


@pytest.mark.parametrize("kind", [InTurn, Concatenated])
def test_the_restored_optimizer_changes_the_result(
    serve_direct: Serve, kind: type[UpdateRule]
) -> None:
    """Otherwise the test above would prove nothing about the momentum."""
    whole, fresh = serving(kind), serving(kind)
    train(whole, serve_direct(whole), range(1, 3), "sgd")
    fresh.load_state_dict(through_bytes(whole.state_dict()))
    forgetful = serving(kind)
    forgetful.server_part.load_state_dict(whole.server_part.state_dict())
    one = train(fresh, serve_direct(fresh), range(3, 4), "sgd")
    other = train(forgetful, serve_direct(forgetful), range(3, 4), "sgd")
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-4


@pytest.mark.parametrize(
    ("kind", "optimizer", "names"),
    [
        (PerParticipantCopies, "adam", set()),
        (InTurn, "sgd", {"momentum_buffer"}),
        (Concatenated, "adam", {"step", "exp_avg", "exp_avg_sq"}),
    ],
)
def test_the_state_holds_what_trains_and_its_optimizer(
    serve_direct: Serve, kind: type[UpdateRule], optimizer: str, names: set[str]
) -> None:
    """Break it: save what is frozen; a run of a large model would be saved whole each time."""
    part = server_part_of()
    assert isinstance(part, nn.Sequential)
    part[1].requires_grad_(False)
    rule = kind(part, settings_of(config_of(optimizer=optimizer)))
    server = SplitServer(rule=rule, wire=CUT)
    train_round(server, serve_direct(server), {0: DATA[0]})
    saved = rule.state_dict()
    assert set(saved["server_part"]) == {"3.weight", "3.bias"}
    leaves = dict(flat(saved))
    assert all(isinstance(leaf, Tensor) for leaf in leaves.values())
    assert {path.split("/")[-1] for path in leaves if path.startswith("optimizer/")} == names


@pytest.mark.parametrize("kind", RULES)
def test_a_state_of_another_model_is_refused(kind: type[UpdateRule]) -> None:
    rule = kind(server_part_of(), settings_of())
    state = through_bytes(rule.state_dict())
    del state["server_part"]["1.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\): 1\.bias"):
        rule.load_state_dict(state)
    rule.close()


@pytest.mark.parametrize("kind", RULES)
def test_a_step_is_a_forward_and_a_backward_pass(kind: type[UpdateRule]) -> None:
    """Break it: return the gradient of the summed loss, or the cut gradient after the update."""
    rule, whole = kind(server_part_of(), settings_of()), server_part_of()
    rule.open_round(1, [3])
    rule.begin(3)
    result, cut_gradient = rule.step(3, SMASHED, LABELS)
    leaf = SMASHED.clone().requires_grad_()
    loss = nn.functional.cross_entropy(whole(leaf), LABELS)
    (expected,) = torch.autograd.grad(loss, [leaf])
    assert result.loss.item() == loss.item()
    assert isinstance(cut_gradient, Tensor)
    torch.testing.assert_close(cut_gradient, expected, atol=1e-7, rtol=0)
    rule.finish(3)
    rule.close_round({3: 3})
    rule.close()


@pytest.mark.parametrize("kind", RULES)
def test_no_cut_gradient_is_computed_unless_needed(kind: type[UpdateRule]) -> None:
    """Break it: leave `cut_gradient` of the settings out of a rule's forward pass."""
    settings = RuleSettings(training=settings_of().training, cut_gradient=False)
    rule, other = kind(server_part_of(), settings), kind(server_part_of(), settings_of())
    gradients = []
    for each in (rule, other):
        each.open_round(1, [3])
        each.begin(3)
        gradients.append(each.step(3, SMASHED, LABELS)[1])
        each.finish(3)
        each.close_round({3: 3})
    assert gradients[0] == {}
    assert isinstance(gradients[1], Tensor)
    assert_same_bits(weights_of(rule.server_part), weights_of(other.server_part))
    for each in (rule, other):
        each.close()


@pytest.mark.parametrize("kind", RULES)
def test_a_diverged_loss_is_refused_and_the_rest_goes_on(kind: type[UpdateRule]) -> None:
    rule = kind(server_part_of(), settings_of())
    rule.open_round(1, [0, 1])

    def step(k: int) -> str:
        rule.begin(k)
        try:
            rule.step(k, SMASHED if k else SMASHED * torch.nan, LABELS)
        except ChannelError as error:
            rule.drop(k)
            return str(error)
        rule.finish(k)
        return "trained"

    found = at_once(step, [0, 1])
    assert "loss of a batch is nan" in found[0]
    assert found[1] == "trained"
    rule.close_round({1: 3})
    assert all(bool(weight.isfinite().all()) for weight in rule.server_part.parameters())
    rule.close()


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_reports_lateness_to_the_function_of_the_current_round(
    kind: type[UpdateRule],
) -> None:
    """Break it: keep the function of the round before, or that of the constructor."""
    rule = kind(server_part_of(), settings_of())
    seen: list[tuple[int, int, str]] = []

    def noting(server_round: int) -> GiveUp:
        return lambda k, why: seen.append((server_round, k, why))

    for server_round in (1, 2):
        rule.open_round(server_round, [0, 1], noting(server_round))
        rule.give_up(1, "too slow")
    rule.open_round(3, [0, 1])
    rule.give_up(0, "nobody is told")
    assert seen == [(1, 1, "too slow"), (2, 1, "too slow")]
    rule.close()


def test_defaults_of_a_rule() -> None:
    assert [kind.copies for kind in RULES] == [True, False, False]
    for kind in RULES:
        rule = kind(server_part_of(), settings_of())
        assert (kind.metrics, dict(rule.measured())) == ((), {})
        rule.close()
    # Only the concatenated batch of a step is computed in pieces.
    part, length = server_part_of(), 128
    assert [kind.batches_at_once(part, 10, length) for kind in RULES] == [1, 1, 4]


def test_evaluation_does_not_touch_the_state(serve_direct: Serve) -> None:
    server = serving(InTurn)
    address = serve_direct(server)
    train(server, address, range(1, 2), "sgd")
    before: Mapping[str, Tensor] = dict(flat(through_bytes(server.state_dict())))
    server.open_round(Purpose.EVALUATE, [0])
    server.close_round(server.report().num_examples)
    after = dict(flat(through_bytes(server.state_dict())))
    assert list(before) == list(after)
    assert all(torch.equal(before[path], after[path]) for path in before)
