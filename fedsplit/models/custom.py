"""Models of your own: a bottom, a trunk and a top, with nothing to register.

The parts of a run come from a function that makes them, named as ``package.module:function``, so
that server and clients, each in a process of its own, make the same ones. In a notebook or script
it is ``__main__:function``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fedsplit.input_spec import InputSpec
from fedsplit.models.family import Family
from fedsplit.models.stages import Root, Stage

# The three `forward`s take anything, so that a subclass may declare a tensor or a dict of them.


class BaseBottomModel(nn.Module):
    """What a client holds: images [B, C, H, W] to smashed data.

    Attributes
    ----------
    input_spec : InputSpec | None
        The images it takes; None = the size of the data set's first image, with mean and
        standard deviation 0.5.
    """

    input_spec: InputSpec | None = None

    def forward(self, *images: Any, **_: Any) -> Any:  # noqa: ANN401
        """Compute the smashed data, a tensor or dict[str, Tensor]; the first axis is the batch."""
        raise NotImplementedError(f"{type(self).__name__} needs a forward method.")


class BaseTrunkModel(nn.Module):
    """What the server trains: smashed data to the top's input."""

    def forward(self, *smashed: Any, **_: Any) -> Any:  # noqa: ANN401
        """Compute the top's input, a tensor or dict[str, Tensor], from the smashed data."""
        raise NotImplementedError(f"{type(self).__name__} needs a forward method.")


class BaseTopModel(nn.Module):
    """Computes the logits [B, classes], at the server or, U-shaped, at the client."""

    def forward(self, *hidden: Any, **_: Any) -> Any:  # noqa: ANN401
        """Compute the logits from the trunk's output."""
        raise NotImplementedError(f"{type(self).__name__} needs a forward method.")


class JoinedModel(nn.Module):
    """Bottom, trunk and top as one model of three stages.

    Parameters
    ----------
    bottom, trunk, top : nn.Module
        Any modules; the three base classes define the input and output of each.
    factory : str
        The function that made the parts, if that is known: ``package.module:function``.

    Attributes
    ----------
    class_names : Sequence[str]
        The classes that it was trained on, in the order of the logits; empty if not known.
    """

    class_names: Sequence[str] = ()

    def __init__(
        self, bottom: nn.Module, trunk: nn.Module, top: nn.Module, factory: str = ""
    ) -> None:
        super().__init__()
        self.bottom = bottom
        self.trunk = trunk
        self.top = top
        self.factory = factory

    def forward(self, images: Tensor) -> Tensor:
        """Run all three: images [B, C, H, W] to logits [B, classes]."""
        logits: Tensor = self.top(self.trunk(self.bottom(images)))
        return logits


def stages(model: Root) -> list[Stage]:
    """List the three stages of a `JoinedModel`."""
    return [
        Stage("bottom", ("bottom",), lambda root, state: root.bottom(state)),
        Stage("trunk", ("trunk",), lambda root, state: root.trunk(state)),
        Stage("top", ("top",), lambda root, state: root.top(state)),
    ]


FAMILY = Family(
    "custom",
    model_class="fedsplit.models.custom:JoinedModel",
    stages=stages,
    model_type="custom",
    head=("top.",),
    library="custom",
)
