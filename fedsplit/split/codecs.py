"""Codecs: how the tensors at the cut become the tensors on the wire, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from fedsplit.boundary import TensorSpec
from fedsplit.errors import ConfigError, shorten
from fedsplit.references import load_instance

NO_CODEC = "none"
Draw = Callable[[], torch.Generator]
"""Returns the generator of one frame, seeded by run, round, participant, direction and step."""


class Packed(NamedTuple):
    """The shape and dtype of one tensor on the wire, for a whole batch."""

    shape: torch.Size
    dtype: torch.dtype


class Codec(ABC):
    """One direction's encoding of floating-point tensors; integer tensors travel as they are.

    Both ends make the same codec from the same config. The ledger, the longest legal frame, the
    plan and the checks of received frames all follow from `packed`.
    """

    @abstractmethod
    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        """Return the tensors on the wire for a batch.

        Parameters
        ----------
        tensors : Mapping[str, TensorSpec]
            The floating-point tensors at the boundary, by name.
        batch_size : int
            B, from 1.

        Returns
        -------
        dict[str, Packed]
            Every tensor on the wire by a name of the codec's choice. The first axis of at least
            one of them must grow by the same length with every example.
        """

    @abstractmethod
    def encode(self, tensors: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """Return the tensors to send, exactly as `packed` describes them.

        Parameters
        ----------
        tensors : Mapping[str, Tensor]
            Detached and contiguous, by name.
        draw : Draw
            Returns a generator for random numbers, so that runs repeat. Call it once: another call
            returns the same numbers again.
        """

    @abstractmethod
    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        """Reverse `encode`.

        Parameters
        ----------
        packed : Mapping[str, Tensor]
            The received tensors, with legal names, shapes and dtypes and no NaN or infinity.
        tensors : Mapping[str, TensorSpec]
            The tensors to return, described for a batch of one.
        batch_size : int
            B.

        Raises
        ------
        ValueError
            If `encode` never produces these values. The frame is then refused.
        """


class Identity(Codec):
    """Send every tensor as it is."""

    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        """Return the shapes at the boundary."""
        return {n: Packed(spec.shape_for(batch_size), spec.dtype) for n, spec in tensors.items()}

    def encode(self, tensors: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """Return the tensors unchanged."""
        return dict(tensors)

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        """Return the tensors unchanged."""
        return dict(packed)


IDENTITY = Identity()


def packed_by(
    codec: Codec, tensors: Mapping[str, TensorSpec], batch_size: int
) -> dict[str, Packed]:
    """Return what `Codec.packed` returns, with shapes that equal those of tensors.

    Raises
    ------
    ConfigError
        If it is no mapping of names to shapes and dtypes.
    """
    found: object = codec.packed(tensors, batch_size)
    with suppress(TypeError, ValueError):
        if isinstance(found, Mapping):
            packed = {
                str(name): Packed(torch.Size(shape), dtype)
                for name, (shape, dtype) in found.items()
            }
            if all(isinstance(each.dtype, torch.dtype) for each in packed.values()):
                return packed
    raise ConfigError(
        f"{type(codec).__name__}.packed has returned {shorten(repr(found))}. Return a dict of "
        "names and Packed(shape, dtype)."
    )


def tensors_by(codec: Codec, method: str, made: object) -> dict[str, Tensor]:
    """Return what a method of a codec has made.

    Raises
    ------
    ConfigError
        If it is no mapping of names to tensors.
    """
    if isinstance(made, Mapping) and all(isinstance(each, Tensor) for each in made.values()):
        return dict(made)
    raise ConfigError(
        f"{type(codec).__name__}.{method} has returned {shorten(repr(made))}. Return a dict of "
        "names and tensors."
    )


def load_codec(name: str, *, key: str) -> Codec:
    """Return the codec that a config key names.

    Parameters
    ----------
    name : str
        ``none``, or ``package.module:name`` of a `Codec` or of a function or class that makes one
        without arguments.
    key : str
        The config key, for the message.

    Raises
    ------
    ConfigError
        If there is no such codec.
    """
    if name == NO_CODEC:
        return IDENTITY
    return load_instance(name, key=key, kind=Codec)
