"""Defences: what a client does to its smashed data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedsplit.boundary import State, each
from fedsplit.errors import ConfigError
from fedsplit.seeding import generator
from fedsplit.split.defences import NO_DEFENCE, NO_DEFENCE_NAME, Defence, load_defence, protected


class Noise(Defence):
    """Add Gaussian noise."""

    def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
        random = draw("noise")
        return each(smashed, lambda t: t + 0.1 * torch.randn(t.shape, generator=random))


def make_noise() -> Noise:
    return Noise()


def no_defence() -> str:
    return "none at all"


def test_without_a_defence_the_smashed_data_is_the_very_same() -> None:
    """Break it: copy it; and draw nothing."""

    def never(*names: object) -> torch.Generator:
        raise AssertionError("nothing is drawn")

    for smashed in (torch.ones(2, 3), {"a": torch.ones(2)}):
        assert NO_DEFENCE.protect(smashed, never) is smashed
    assert load_defence(NO_DEFENCE_NAME) is NO_DEFENCE


def test_a_defence_is_found_by_its_name() -> None:
    for name in ("Noise", "make_noise"):
        assert type(load_defence(f"{__name__}:{name}")) is Noise


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("noise", "defence.name = 'noise' does not name an object of a module"),
        (f"{__name__}:missing", "cannot be imported"),
        (f"{__name__}:no_defence", "is a str. Name a class derived from .*Defence"),
        (f"{__name__}:Defence", "cannot be made without arguments"),
    ],
)
def test_a_name_of_no_defence_is_refused_with_its_key(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_defence(name)


def test_the_gradient_flows_back_through_a_defence() -> None:
    hidden = torch.ones(2, 3, requires_grad=True)
    protected = Noise().protect(hidden, lambda *names: generator(1, *names))
    assert isinstance(protected, Tensor)
    torch.autograd.backward((2 * protected).sum())
    assert hidden.grad is not None
    assert torch.equal(hidden.grad, torch.full((2, 3), 2.0))


class Returning(Defence):
    """Returns what the test asks for."""

    def __init__(self, made: object) -> None:
        self._made = made

    def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
        return self._made  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "None"),
        (torch.ones(2, 2), "'hidden' of torch.float32 [2, 2]"),
        (torch.ones(2, 3).double(), "'hidden' of torch.float64 [2, 3]"),
        ({"other": torch.ones(2, 3)}, "'other' of torch.float32 [2, 3]"),
        ({}, "nothing"),
    ],
)
def test_what_a_defence_returns_is_checked(made: object, said: str) -> None:
    """Break it: send what it returns."""
    with pytest.raises(ConfigError) as caught:
        protected(Returning(made), torch.ones(2, 3), torch.Generator)
    assert f"Returning.protect has returned {said}, not 'hidden' of" in str(caught.value)


def test_a_defence_may_name_a_single_tensor() -> None:
    made = {"hidden": torch.zeros(2, 3)}
    assert protected(Returning(made), torch.ones(2, 3), torch.Generator) is made
