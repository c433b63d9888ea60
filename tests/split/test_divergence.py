from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedsplit import simulate
from fedsplit.boundary import State, each
from fedsplit.errors import RunError
from fedsplit.split.client_rules import SplitClient
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.defences import Defence
from fedsplit.split.divergence import own_rule, own_senders
from fedsplit.split.local import BatchLoss
from fedsplit.split.steps import StepResult
from strategies.sflv1 import SFLV1

pytestmark = pytest.mark.usefixtures("undrawn")


def line_of(name: str) -> int:
    """Return the line of the first method of a class in this file."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"class {name}("))
    return 1 + next(n for n in range(start, len(lines)) if "    def " in lines[n])


class _LossIsNaN(SplitClient):
    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        loss = super().train_step(images, labels)
        return loss._replace(descended=loss.descended * torch.tensor(0.0).log() * 0)


class LossIsNaN(SFLV1):
    client_rule = _LossIsNaN


class _ReportIsInfinite(SplitClient):
    scores_on_server = False

    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        loss = super().train_step(images, labels)
        reported = StepResult(1 / torch.tensor(0.0), loss.reported.num_correct)
        return loss._replace(reported=reported)


class ReportIsInfinite(SFLV1):
    client_rule = _ReportIsInfinite


class _GradientIsNaN(SplitClient):
    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        loss = super().train_step(images, labels)
        weight = next(self.side.bottom.parameters())
        return loss._replace(descended=loss.descended + (weight - weight).square().sum().sqrt())


class GradientIsNaN(SFLV1):
    client_rule = _GradientIsNaN


class _SmashedIsNaN(SplitClient):
    def smashed(self, images: Tensor) -> State:
        return each(super().smashed(images), lambda t: t / torch.zeros(()) * 0)


class SmashedIsNaN(SFLV1):
    client_rule = _SmashedIsNaN


class _ServersGradientIsNaN(PerParticipantCopies):
    def backward(self, participant: int, gradient: State) -> State:
        return each(super().backward(participant, gradient), lambda t: t * float("nan"))


class ServersGradientIsNaN(SFLV1):
    update_rule = _ServersGradientIsNaN


class _ServersOutputIsNaN(PerParticipantCopies):
    def forward(self, participant: int, smashed: State) -> State:
        return each(super().forward(participant, smashed), lambda t: t * float("nan"))


class ServersOutputIsNaN(SFLV1):
    update_rule = _ServersOutputIsNaN


class DivideByZero(Defence):
    def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
        return each(smashed, lambda t: t / torch.zeros(()))


FAULTS = {
    "LossIsNaN": ("The loss of a batch is nan in {}", "train_step"),
    "ReportIsInfinite": ("The reported loss of a batch is inf in {}", "train_step"),
    "GradientIsNaN": ("NaN or infinity is in the gradient of the loss of {}", "train_step"),
    "SmashedIsNaN": ("NaN or infinity is in the smashed data of {}", "smashed"),
    "ServersGradientIsNaN": ("NaN or infinity is in the cut gradient of {}", "backward"),
    "ServersOutputIsNaN": ("", "forward"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
def test_an_own_rule_whose_numbers_are_not_finite_is_named_before_the_learning_rate(
    tiny: dict[str, object], name: str, topology: str
) -> None:
    """Break it: leave the check out, and the message only says to lower learning-rate."""
    fault, method = FAULTS[name]
    if not fault:  # in the vanilla topology the server computes the loss of its output
        fault = "in the output of {}" if topology == "u-shaped" else "the loss of a batch is nan"
    whose = f"_{name}.{method} (split/test_divergence.py, line {line_of(f'_{name}')})"
    keys = {"strategy": f"{__name__}:{name}", "split.topology": topology, "num-server-rounds": 1}
    with pytest.raises(RunError) as caught:
        simulate(tiny, **keys)
    said = str(caught.value)
    assert fault.format(whose) in said
    assert f"Check first what _{name}.{method} computes" in said
    assert said.index("Check first") < said.index("lower learning-rate")


def test_an_own_defence_is_named(tiny: dict[str, object]) -> None:
    """Break it: ask only the rule for the user's code."""
    keys = {"defence.name": f"{__name__}:DivideByZero", "num-server-rounds": 1}
    said = "NaN or infinity is in the smashed data of DivideByZero.protect (split/test_divergence"
    with pytest.raises(RunError, match=re.escape(said)):
        simulate(tiny, **keys)


def test_fedsplits_own_rules_are_not_checked_twice() -> None:
    """Break it: take every rule for the user's; each batch is then read once more."""
    assert own_rule(SplitClient) is None
    assert own_senders(SplitClient, Defence) == {}


class _Deriving(_LossIsNaN):
    """Inherits the user's method."""


def test_a_method_is_named_where_it_is_defined() -> None:
    assert str(own_rule(_Deriving)).startswith("_LossIsNaN.train_step (split/test_divergence.py")
