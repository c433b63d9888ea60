"""Fill a model from stored tensors, of which only the wanted ones are read, and write one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models.directory import SINGLE
from fedsplit.models.storage import Slot, as_slot, put, weight_slots
from fedsplit.models.stored import Stored
from fedsplit.snapshot import separate


def write(state: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as a safetensors file, which refuses tensors that share memory."""
    save_file(separate(state), file, metadata={"format": "pt"})


def write_model(model: nn.Module, config: Mapping[str, object], directory: Path) -> None:
    """Write config.json and model.safetensors of a model that transformers does not save."""
    text = json.dumps(config, indent=2) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
    write(model.state_dict(), directory / SINGLE)


Slots = list[tuple[str, Slot]]
"""All names of one tensor and their places: several if it is tied."""


class Filling:
    """Fills a model that has no weights from a checkpoint.

    Parameters
    ----------
    model : nn.Module
        With its weights on the meta device.
    checkpoint : Stored
        The stored tensors.
    name_of : Callable[[str], str]
        From the checkpoint's keys to the model's names.
    fresh : tuple[str, ...]
        Prefixes of names whose weights may be missing or of another shape.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Stored,
        *,
        name_of: Callable[[str], str],
        fresh: tuple[str, ...],
    ) -> None:
        self._checkpoint = checkpoint
        named = [(name_of(key), key) for key in checkpoint]
        self._keys = dict(named)
        self._doubled = [key for name, key in named if self._keys[name] != key]
        self._fresh = fresh
        tied: dict[int, Slots] = {}
        for name, slot in weight_slots(model):
            tied.setdefault(id(slot[2]), []).append((name, slot))
        self._tensors = list(tied.values())

    def without_place(self) -> list[str]:
        """Return the names in the checkpoint that the model lacks."""
        known = {name for slots in self._tensors for name, _ in slots}
        return [name for name in self._keys if name not in known]

    def stored_shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a stored weight; None if there is none."""
        key = self._keys.get(name)
        return None if key is None else self._checkpoint.shape(key)

    def faults(self, wanted: Collection[str], may_be_left: Callable[[str], bool]) -> str:
        """Return which keys are missing, unexpected, double, or of another shape or kind, as text.

        Several keys may stand for one weight, as older versions called it: which is right is not
        known then. Whole numbers in place of others are quantised, and mean nothing by themselves.

        Parameters
        ----------
        wanted : Collection[str]
            Names whose shapes are compared; the files of the others need not be opened.
        may_be_left : Callable[[str], bool]
            Whether the checkpoint may hold a name that the model lacks.
        """
        kinds = {
            "missing": [
                slots[0][0]
                for slots in self._tensors
                if not self._may_be_fresh(slots) and self._key(slots) is None
            ],
            "unexpected": [name for name in self.without_place() if not may_be_left(name)],
            "of a weight that is there twice": self._doubled,
            "of another shape": [
                self._reshaped(slots)
                for slots in self._tensors
                if not self._may_be_fresh(slots) and _places(slots, wanted)
            ],
            "of no floating-point numbers, as quantised ones": [
                self._of_another_kind(slots) for slots in self._tensors if _places(slots, wanted)
            ],
        }
        told = {kind: sorted(filter(None, keys)) for kind, keys in kinds.items()}
        return "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for kind, keys in told.items()
            if keys
        )

    def fill(
        self, wanted: Collection[str], device: torch.device, dtype: torch.dtype | None
    ) -> list[Tensor]:
        """Read the wanted weights into the model; the others stay without storage.

        Returns
        -------
        list[Tensor]
            Those that the checkpoint lacks, with uninitialised storage.
        """
        fresh: list[Tensor] = []
        for slots in self._tensors:
            places = _places(slots, wanted)
            if not places:
                continue
            old = places[0][2]
            key = self._key(slots)
            if key is None or self._reshaped(slots):
                like = dtype if old.is_floating_point() else None
                tensor = as_slot(old, torch.empty_like(old, device=device, dtype=like))
                fresh.append(tensor)
            else:
                tensor = as_slot(old, self._read(key, old, device, dtype))
            for place in places:
                put(place, tensor)
        return fresh

    def _read(
        self, key: str, old: Tensor, device: torch.device, dtype: torch.dtype | None
    ) -> Tensor:
        tensor = self._checkpoint.read(key)
        # A copy, because the file's tensor is mapped from it, at whatever offset its header ends.
        kind = (dtype or old.dtype) if old.is_floating_point() else old.dtype
        read = tensor.to(device, kind, copy=True)
        # A buffer may be a mask, with minus infinity where nothing is to be seen.
        seen = isinstance(old, nn.Parameter) and not read.is_meta
        if seen and not torch.isfinite(read).all():
            raise ModelError(
                f"The weight {key} has a NaN or an infinite number in it, as {read.dtype}. The "
                "training that made it has diverged, or the file is damaged: use another checkpoint"
                f"{'' if dtype in (None, torch.float32) else ', or a dtype of a larger range'}."
            )
        return read

    def _key(self, slots: Slots) -> str | None:
        return next((self._keys[name] for name, _ in slots if name in self._keys), None)

    def _may_be_fresh(self, slots: Slots) -> bool:
        return any(name.startswith(start) for name, _ in slots for start in self._fresh)

    def _of_another_kind(self, slots: Slots) -> str:
        """Return the key of a weight that is stored as whole, truth or complex numbers."""
        key, (_, _, old) = self._key(slots), slots[0][1]
        if key is None or not old.is_floating_point() or self._checkpoint.is_floating_point(key):
            return ""
        return key

    def _reshaped(self, slots: Slots) -> str:
        key, shape = self._key(slots), tuple(slots[0][1][2].shape)
        if key is None:
            return ""
        stored = self._checkpoint.shape(key)
        return "" if stored == shape else f"{key} {stored} instead of {shape}"


def _places(slots: Slots, wanted: Collection[str]) -> list[Slot]:
    return [slot for name, slot in slots if name in wanted]
