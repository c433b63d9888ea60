"""Stored tensors by name: in memory, or in the safetensors of a model's directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from safetensors import safe_open
from torch import Tensor

from fedsplit import tensor_headers
from fedsplit.errors import ModelError
from fedsplit.models.directory import INDEX, SINGLE, file_in, read_index
from fedsplit.models.hub import Source, fetch_file
from fedsplit.names import some


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

    def is_floating_point(self, key: str) -> bool:
        """Return what kind of numbers a tensor has, without reading it."""
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

    def is_floating_point(self, key: str) -> bool:
        """Return what kind of numbers a tensor has."""
        return self._tensors[key].is_floating_point()

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
    trust : bool
        As for `file_in`.

    Raises
    ------
    ModelError
        If there are none, or the index cannot be read or names other files than these.
    """

    def __init__(
        self,
        directory: Path,
        fetch: Callable[[str], object] | None = None,
        *,
        trust: bool = False,
    ) -> None:
        self.directory = directory
        self._fetch = fetch
        self._trust = trust
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

    def is_floating_point(self, key: str) -> bool:
        """Return what kind of numbers a tensor has, from the header of its file."""
        name: str = self.file_of(key).get_slice(key).get_dtype()
        return name.startswith(("F", "BF"))  # F32, BF16, F8_E4M3; others are I64, U8, BOOL, C64

    def read(self, key: str) -> Tensor:
        """Return a tensor that is mapped from its file."""
        tensor: Tensor = self.file_of(key).get_tensor(key)
        return tensor

    def file_of(self, key: str) -> Any:  # noqa: ANN401 - safetensors has no types
        """Open the file that holds a key, and keep it open."""
        file = self._files[key]
        if file not in self._opened:
            self._check(file, self._open(file))
        return self._opened[file]

    def fetch_all(self) -> None:
        """Fetch all shards."""
        for file in set(self._files.values()):
            self._there(file)

    def _there(self, file: str) -> Path:
        if self._fetch is not None and not (self.directory / file).is_file():
            self._fetch(file)
        return file_in(self.directory, file, trust=self._trust)

    def _open(self, file: str) -> set[str]:
        """Open a file, and return the names of its tensors."""
        path = self._there(file)
        try:
            header = tensor_headers.checked_file(path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The weights in '{path}' cannot be read: {error}. Copy or save the model again."
            ) from None
        self._opened[file] = self._stack.enter_context(safe_open(path, framework="pt"))
        return set(header) - {tensor_headers.METADATA}

    def _check(self, file: str, stored: set[str]) -> None:
        """Refuse a shard that holds other tensors than the index says."""
        listed = {key for key, name in self._files.items() if name == file}
        if stored != listed:
            missing, extra = sorted(listed - stored), sorted(stored - listed)
            raise ModelError(
                f"'{self.directory / file}' does not hold what {INDEX} says: "
                f"{len(missing)} tensors are missing ({some(missing)}), and {len(extra)} are in no "
                f"place or in another file ({some(extra)}). Copy or save the model again."
            )

    def _find(self) -> dict[str, str]:
        if os.path.lexists(self.directory / INDEX):
            return read_index(file_in(self.directory, INDEX, trust=self._trust))
        if not (self.directory / SINGLE).is_file():
            raise ModelError(
                f"The model directory '{self.directory}' holds neither {SINGLE} nor {INDEX}. Give "
                "a directory with safetensors weights, or set model.pretrained to false to draw "
                "them at random."
            )
        return dict.fromkeys(sorted(self._open(SINGLE)), SINGLE)


def checkpoint_of(source: Source, cache_dir: str | Path | None) -> Checkpoint:
    """Open the weights in a model's directory; shards of a hub model are fetched as needed."""
    assert source.directory is not None
    fetch = partial(fetch_file, source, cache_dir=cache_dir) if source.from_hub else None
    return Checkpoint(source.directory, fetch, trust=source.trust)


def all_of(stored: Stored) -> dict[str, Tensor]:
    """Read all tensors, and close the files."""
    with stored:
        return {key: stored.read(key).clone() for key in stored}
