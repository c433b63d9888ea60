"""Lazy checkpoint reading: only the requested tensors are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models.hub import INDEX, SINGLE, Source, fetch_file
from fedsplit.models.storage import Slot, as_slot, put, weight_slots
from fedsplit.snapshot import separate


class Stored(Protocol):
    """Tensors by name, in memory or in files; a context manager that closes the files."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> Iterator[str]:
        """Yield all keys."""
        ...

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape, without reading it."""
        ...

    def read(self, key: str) -> Tensor:
        """Return a tensor; copy it to keep it."""
        ...


class Loaded:
    """Tensors in memory.

    Parameters
    ----------
    tensors : Mapping[str, Tensor]
        By key.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[str]:
        """Yield all keys."""
        yield from self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._tensors[key].shape)

    def read(self, key: str) -> Tensor:
        """Return a tensor."""
        return self._tensors[key]


class Checkpoint:
    """The safetensors of a directory, in one file or in shards, opened when first needed.

    Parameters
    ----------
    directory : Path
        Where the files are.
    fetch : Callable[[str], object] | None
        Fetches a missing shard by its name.

    Raises
    ------
    ModelError
        If there are none, or the index cannot be read.
    """

    def __init__(self, directory: Path, fetch: Callable[[str], object] | None = None) -> None:
        self.directory = directory
        self._fetch = fetch
        self._stack = ExitStack()
        self._opened: dict[str, Any] = {}
        self._files = self._find()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        """Yield all keys; if there is an index, no shard is opened for that."""
        yield from self._files

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape, from the header of its file."""
        return tuple(self.file_of(key).get_slice(key).get_shape())

    def read(self, key: str) -> Tensor:
        """Return a tensor that is mapped from its file."""
        tensor: Tensor = self.file_of(key).get_tensor(key)
        return tensor

    def file_of(self, key: str) -> Any:  # noqa: ANN401 - safetensors has no types
        """Open the file that holds a key, and keep it open."""
        file = self._files[key]
        if file not in self._opened:
            path = self._there(file)
            self._opened[file] = self._stack.enter_context(safe_open(path, framework="pt"))
        return self._opened[file]

    def fetch_all(self) -> None:
        """Fetch all shards."""
        for file in set(self._files.values()):
            self._there(file)

    def _there(self, file: str) -> Path:
        path = self.directory / file
        if self._fetch is not None and not path.is_file():
            self._fetch(file)
        return path

    def _find(self) -> dict[str, str]:
        if (self.directory / INDEX).is_file():
            index = json.loads((self.directory / INDEX).read_text(encoding="utf-8"))
            return {str(key): str(file) for key, file in index["weight_map"].items()}
        if not (self.directory / SINGLE).is_file():
            raise ModelError(
                f"The model directory '{self.directory}' holds neither {SINGLE} nor {INDEX}. Give "
                "a directory with safetensors weights, or set model.pretrained to false to draw "
                "them at random."
            )
        file = self._stack.enter_context(safe_open(self.directory / SINGLE, framework="pt"))
        self._opened[SINGLE] = file
        return dict.fromkeys(file.keys(), SINGLE)


def checkpoint_of(source: Source, cache_dir: str | Path | None) -> Checkpoint:
    """Open the weights in a model's directory; shards of a hub model are fetched as needed."""
    assert source.directory is not None
    fetch = partial(fetch_file, source, cache_dir=cache_dir) if source.from_hub else None
    return Checkpoint(source.directory, fetch)


def all_of(stored: Stored) -> dict[str, Tensor]:
    """Read all tensors, and close the files."""
    with stored:
        return {key: stored.read(key).clone() for key in stored}


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
        self._keys = {name_of(key): key for key in checkpoint}
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
        """Return which keys are missing, unexpected, or of another shape, as text; empty if none.

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
            "of another shape": [
                self._reshaped(slots)
                for slots in self._tensors
                if not self._may_be_fresh(slots) and _places(slots, wanted)
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
        return tensor.to(device, kind, copy=True)

    def _key(self, slots: Slots) -> str | None:
        return next((self._keys[name] for name, _ in slots if name in self._keys), None)

    def _may_be_fresh(self, slots: Slots) -> bool:
        return any(name.startswith(start) for name, _ in slots for start in self._fresh)

    def _reshaped(self, slots: Slots) -> str:
        key, shape = self._key(slots), tuple(slots[0][1][2].shape)
        if key is None:
            return ""
        stored = self._checkpoint.shape(key)
        return "" if stored == shape else f"{key} {stored} instead of {shape}"


def _places(slots: Slots, wanted: Collection[str]) -> list[Slot]:
    return [slot for name, slot in slots if name in wanted]
