"""Defences: what a client does to its smashed data before it sends them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from fedsplit.boundary import State
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
