"""Numbers that became NaN or infinite in the user's own rule, which is then named first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.optim import Optimizer

from fedsplit.blame import users_method
from fedsplit.boundary import State, by_name
from fedsplit.channel.frame import Kind
from fedsplit.errors import DivergedError
from fedsplit.split.checks import all_finite

_CLIENT_METHODS = ("train_step", "smashed", "train", "added_modules")
_SERVER_METHODS = ("step", "backward", "forward", "open_round", "close_round")


def own_rule(rule: type) -> str | None:
    """Return what the user has written of a client rule, and where; None if it is fedsplit's."""
    return users_method(rule, *_CLIENT_METHODS)


def own_senders(rule: type, defence: type) -> dict[Kind, str]:
    """Return the user's own code, of a client rule or a defence, that makes each kind of frame."""
    found = {
        Kind.SMASHED_DATA: users_method(defence, "protect")
        or users_method(rule, "smashed")
        or own_rule(rule),
        Kind.OUTPUT_GRADIENT: own_rule(rule),
    }
    return {kind: own for kind, own in found.items() if own is not None}


def check_loss(own: str, minimised: Tensor, reported: Tensor) -> None:
    """Refuse the loss of a batch that the user's own rule has returned, if it is not finite.

    Raises
    ------
    DivergedError
        Names the rule.
    """
    for word, loss in (("", minimised), ("reported ", reported)):
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _blaming(own, f"The {word}loss of a batch is {value} in {own}.")


def check_gradients(own: str, optimizer: Optimizer) -> None:
    """Refuse gradients of the loss of the user's own rule that are not finite.

    Raises
    ------
    DivergedError
        Names the rule.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not all(weight.grad is None or all_finite(weight.grad) for weight in weights):
        raise _blaming(own, f"NaN or infinity is in the gradient of the loss of {own}.")


def check_sent(own: str, kind: Kind, state: State) -> None:
    """Refuse to send what the user's own code has made, if it is not finite.

    Raises
    ------
    DivergedError
        Names the code.
    """
    if not all(all_finite(tensor.detach()) for tensor in by_name(state).values()):
        what = "smashed data" if kind is Kind.SMASHED_DATA else "gradient of the trunk's output"
        raise _blaming(own, f"NaN or infinity is in the {what} of {own}.")


@contextmanager
def blaming(rule: type, method: str) -> Iterator[str | None]:
    """Name the user's own update rule in the errors of a block; yield its name, if it is one.

    Parameters
    ----------
    rule : type
        The update rule.
    method : str
        Its method that the block calls; another one is named if this one is not the user's.

    Raises
    ------
    DivergedError
        As in the block, with the rule.
    """
    own = users_method(rule, method, *_SERVER_METHODS)
    try:
        yield own
    except DivergedError as error:
        if own is None:
            raise
        raise _blaming(own, error.fault) from None


def check_made(own: str | None, what: str, state: State) -> None:
    """Refuse what the user's own update rule, if there is one, has made, if it is not finite.

    Raises
    ------
    DivergedError
        Names nothing to do: see `blaming`.
    """
    if own is not None and not all(map(all_finite, by_name(state).values())):
        raise DivergedError(f"NaN or infinity is in the {what} of {own}.")


def _blaming(own: str, fault: str) -> DivergedError:
    return DivergedError(
        fault,
        f"Check first what {own.partition(' ')[0]} computes, such as a logarithm, a root or a "
        "quotient of 0. If that is right, lower learning-rate.",
    )
