"""Defences: what a client does to its smashed data before it sends them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from fedsplit.boundary import BARE_NAME, State
from fedsplit.errors import ConfigError, shorten
from fedsplit.references import load_instance

NO_DEFENCE_NAME = "none"


class Defence(ABC):
    """Protects smashed data, in training and in evaluation.

    It runs at the client, inside the autograd graph: the cut gradient flows back through it.
    """

    @abstractmethod
    def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
        """Return the smashed data to send, of the same shapes and dtypes.

        Parameters
        ----------
        smashed : State
            The bottom's output for B examples, such as [B, N+1, D].
        draw : Callable[..., torch.Generator]
            Maps names to a generator that derives from the run's seed, the round, the client, the
            batch and the names. The server knows that seed, so noise drawn from it carries no
            privacy claim.
        """


class _NoDefence(Defence):
    def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
        return smashed


NO_DEFENCE = _NoDefence()


def protected(defence: Defence, smashed: State, draw: Callable[..., torch.Generator]) -> State:
    """Return what a defence makes of smashed data, for a check before the run.

    What clients send in the run is checked by the server.

    Raises
    ------
    ConfigError
        If it has other names, shapes or dtypes.
    """
    before = _described(smashed)  # it may change them in place
    made: object = defence.protect(smashed, draw)
    after = _described(made)
    if after == before:
        return cast(State, made)
    raise ConfigError(
        f"{type(defence).__name__}.protect has returned {after}, not {before}. Return the smashed "
        "data to send, of the same names, shapes and dtypes."
    )


def _described(state: object) -> str:
    """Return names, dtypes and shapes in words: of a single tensor as of a dict of one."""
    said = []
    for name, each in (state if isinstance(state, Mapping) else {BARE_NAME: state}).items():
        if not isinstance(each, Tensor):
            return shorten(repr(state))
        said.append(f"'{name}' of {each.dtype} {list(each.shape)}")
    return ", ".join(sorted(said)) or "nothing"


def load_defence(name: str) -> Defence:
    """Return the defence that `defence.name` names.

    Parameters
    ----------
    name : str
        ``none``, or ``package.module:name`` of a `Defence` or of a function or class that makes
        one without arguments.

    Raises
    ------
    ConfigError
        If there is no such defence.
    """
    if name == NO_DEFENCE_NAME:
        return NO_DEFENCE
    return load_instance(name, key="defence.name", kind=Defence)
