"""The tensors of one kind of frame: at the boundary of the model, and on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fedsplit.boundary import Boundary, State, TensorSpec, by_name
from fedsplit.channel.codec import LIMITS
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ConfigError
from fedsplit.split.checks import all_finite, check_names, check_tensor, check_value, refused
from fedsplit.split.codecs import Codec, Draw, Packed, packed_by, tensors_by

Item = TypeVar("Item")
_LONGEST_ENTRY = 90
_LONGEST_NUMBER = 21
"""Bytes of an entry in a frame's header without its name and numbers, and of a number in it."""


class Content(NamedTuple):
    """The checked content of a received frame.

    Attributes
    ----------
    state : State
        The decoded tensors, as modules take them.
    scores : Mapping[str, Tensor]
        Labels, or loss and number of correct predictions, by name.
    batch_size : int
        B.
    """

    state: State
    scores: Mapping[str, Tensor]
    batch_size: int


@dataclass(frozen=True)
class Payload:
    """What one kind of frame carries.

    Attributes
    ----------
    prefix : str
        Prefix of the names of the boundary's tensors on the wire.
    boundary : Boundary
        The tensors at the boundary.
    codec : Codec
        How the floating-point ones travel.
    scores : Mapping[str, TensorSpec]
        Further tensors, which no codec encodes. A shape () is that of the whole batch.

    Raises
    ------
    ConfigError
        If the codec names a tensor as the boundary names one that no codec encodes, or a frame
        would have more tensors than a receiver reads.
    """

    prefix: str
    boundary: Boundary
    codec: Codec
    scores: Mapping[str, TensorSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a codec whose tensor would replace one of the boundary, and too many tensors."""
        packed = packed_by(self.codec, self._floating, 1) if self._floating else {}
        if both := sorted(set(packed) & (set(self.boundary.tensors) - set(self._floating))):
            raise ConfigError(
                f"The codec {type(self.codec).__name__} names a tensor {both[0]!r}, as the model "
                "names one that no codec encodes. Choose another name in packed() and encode()."
            )
        whole = self._packed(1)
        header_bytes = sum(
            len(name.encode()) + _LONGEST_ENTRY + _LONGEST_NUMBER * (2 + len(packed.shape))
            for name, packed in whole.items()
        )
        if len(whole) > LIMITS.tensors or header_bytes > LIMITS.header_bytes:
            raise ConfigError(
                f"A frame would have {len(whole)} tensors, and up to {header_bytes} bytes of names "
                f"and shapes; a receiver reads at most {LIMITS.tensors} and {LIMITS.header_bytes}. "
                "Let the codec, or the model at the cut, join some of them, or name them shorter."
            )

    @cached_property
    def _floating(self) -> Mapping[str, TensorSpec]:
        return self.boundary.floating.tensors

    @cached_property
    def _batch_axis(self) -> tuple[str, int, int] | None:
        """The tensor that determines B: its name, its length for one example, and for each more."""
        one, two = self._packed(1), self._packed(2)
        for name in (*self.scores, *one):
            rows = two[name].shape[:1] if name in one else ()
            if rows and rows[0] > one[name].shape[0]:
                return name, one[name].shape[0], rows[0] - one[name].shape[0]
        return None

    @property
    def tells_batch_size(self) -> bool:
        """Whether a receiver can tell the number of examples from a frame."""
        return self._batch_axis is not None

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the tensors in a frame."""
        return frozenset(self._packed(1))

    def _packed(self, batch_size: int) -> dict[str, Packed]:
        """Return all tensors on the wire, in their order."""
        whole = {
            name: Packed(spec.shape_for(batch_size), spec.dtype)
            for name, spec in self.boundary.tensors.items()
            if name not in self._floating
        }
        packed = packed_by(self.codec, self._floating, batch_size) if self._floating else {}
        return self._named(packed, whole) | {
            name: Packed(spec.shape_for(batch_size) if spec.shape else torch.Size(), spec.dtype)
            for name, spec in self.scores.items()
        }

    def _named(self, packed: Mapping[str, Item], whole: Mapping[str, Item]) -> dict[str, Item]:
        """Name tensors for the wire; those with the boundary's names keep its order."""
        both = {**whole, **packed}
        order = dict.fromkeys([*(n for n in self.boundary.tensors if n in both), *both])
        return {self.prefix + name: both[name] for name in order}

    def frame(self, kind: Kind, batch_size: int) -> Frame:
        """Return a frame for a batch of this size; its tensors have no storage."""
        tensors = {
            name: torch.empty(packed.shape, dtype=packed.dtype, device="meta")
            for name, packed in self._packed(batch_size).items()
        }
        return Frame(kind, 0, tensors)

    def pack(
        self, kind: Kind, step: int, state: State, scores: Mapping[str, Tensor], draw: Draw
    ) -> Frame:
        """Return a frame to send."""
        # Contiguous in both engines: the layout of a batch must not depend on the channel.
        tensors = {name: t.detach().contiguous() for name, t in by_name(state).items()}
        floating = {name: t for name, t in tensors.items() if t.is_floating_point()}
        whole = {name: t for name, t in tensors.items() if name not in floating}
        packed: dict[str, Tensor] = {}
        if floating:
            packed = tensors_by(self.codec, "encode", self.codec.encode(floating, draw))
        return Frame(kind, step, self._named(packed, whole) | dict(scores))

    def unpack(
        self,
        frame: Frame,
        *,
        device: torch.device,
        max_batch_size: int,
        batch_size: int | None = None,
    ) -> Content:
        """Check a received frame, and return its content.

        Parameters
        ----------
        frame : Frame
            Of this kind.
        device : torch.device
            Where to put the tensors. Integers that the image size fixes stay on the CPU: modules
            read them there, and reading them from a GPU would stall every step.
        max_batch_size : int
            The largest legal B.
        batch_size : int | None
            B, if it is known; None = as many examples as the frame holds.

        Raises
        ------
        ChannelError
            Names the tensor, what it is and what it must be.
        """
        check_names(frame, self.names)
        if batch_size is None:
            batch_size = self._batch_size(frame, max_batch_size)
        for name, (shape, dtype) in self._packed(batch_size).items():
            check_tensor(frame, name, shape=shape, dtype=dtype)
        state: dict[str, Tensor] = {}
        for name, spec in self.boundary.tensors.items():
            if name not in self._floating:
                tensor = frame.tensors[self.prefix + name]
                if spec.value is not None:
                    check_value(frame, self.prefix + name, spec.value)
                state[name] = tensor if spec.value is not None else tensor.to(device)
        state |= self._decoded(frame, batch_size, device)
        scores = {name: frame.tensors[name].to(device) for name in self.scores}
        return Content(self.boundary.to_state(state), scores, batch_size)

    def _batch_size(self, frame: Frame, largest: int) -> int:
        if self._batch_axis is None:
            raise refused(frame, "has no tensor whose length tells the number of examples")
        name, first, each = self._batch_axis
        tensor = frame.tensors[name]
        if name in self.scores and (
            tensor.dtype != self.scores[name].dtype or tensor.ndim != len(self.scores[name].shape)
        ):
            dtype = self.scores[name].dtype
            raise refused(
                frame, f"has {name} of {tensor.dtype} {list(tensor.shape)}, not {dtype} [B]"
            )
        size = (len(tensor) - first) // each + 1 if tensor.ndim else 0
        if not 1 <= size <= largest:
            raise refused(frame, f"has {size} examples, not 1 to {largest}")
        return size

    def _decoded(self, frame: Frame, batch_size: int, device: torch.device) -> dict[str, Tensor]:
        if not self._floating:
            return {}
        packed = {
            name: frame.tensors[self.prefix + name].to(device)
            for name in packed_by(self.codec, self._floating, batch_size)
        }
        try:
            made = self.codec.decode(packed, self._floating, batch_size)
            decoded = tensors_by(self.codec, "decode", made)
        except Exception as error:  # what hostile values make a codec raise is open-ended
            raise refused(frame, f"cannot be decoded ({error})") from None
        if set(decoded) != set(self._floating):
            raise refused(frame, f"decodes to {sorted(decoded)}, not to {sorted(self._floating)}")
        for name, spec in self._floating.items():
            tensor, shape = decoded[name], spec.shape_for(batch_size)
            if (tensor.shape, tensor.dtype) != (shape, spec.dtype):
                raise refused(frame, f"does not decode to '{name}' of {spec.dtype} {list(shape)}")
            # A tensor that came as it is was checked before.
            if tensor is not packed.get(name) and not all_finite(tensor):
                raise refused(frame, f"decodes to NaN or infinity in '{name}'")
        return decoded
