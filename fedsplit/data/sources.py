"""Where the images of a name come from, and in which state a run reads them.

A folder can change, and a function of the user's own can be defined again. A run reads one state
of its data set from start to end, and the next run looks again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import datasets

from fedsplit.data import fashion_mini
from fedsplit.data.folders import FolderState, allowed_folders, folder_state, read_folder
from fedsplit.data.functions import call_function
from fedsplit.data.hub import cache_folders, read_hub
from fedsplit.data.image_paths import AllowedFolders
from fedsplit.data.objects import splits_of
from fedsplit.errors import DataError
from fedsplit.names import local_directory, near_miss
from fedsplit.objects import Given, given_object, is_object
from fedsplit.references import is_reference

BUNDLED: Mapping[str, Callable[[], datasets.DatasetDict]] = {"fashion-mini": fashion_mini.load}


@dataclass(frozen=True)
class Bundled:
    """A data set that comes with fedsplit."""

    name: str


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face Hub, in the state in which this process loads it first."""

    name: str
    config_name: str = ""


@dataclass(frozen=True, eq=False)
class FunctionResult:
    """What the user's own function returned, or the user's own object; equal to itself only."""

    splits: Mapping[str, datasets.Dataset]


Source = Bundled | FolderState | HubDataset | FunctionResult
"""One state of a data set. Hashable: caches of what is made from it have it in their keys."""


@dataclass
class _Held:
    source: Source
    num_runs: int = 0


_Key = tuple[str, str, Given | None]
"""The name of a data set, that of its subset, and the object that the name stands for, if any."""
_held: dict[_Key, _Held] = {}
_seen: dict[_Key, Source] = {}
_lock = RLock()


def source_of(name: str, config_name: str = "", *, look: bool = True) -> Source:
    """Return the state of a data set.

    While a run holds the data set (see `held`), that is the state which the run has found.

    Parameters
    ----------
    name, config_name : str
        As ``data.name`` and ``data.config-name``.
    look : bool
        Look at the folder, or call the function, now; False = return what this process found when
        it looked last, if it has looked before.

    Raises
    ------
    DataError
        If there is no such folder, or a function does not return a data set.
    ConfigError
        If ``package.module:name`` cannot be imported or is not a function.
    """
    with _lock:
        key = _key(name, config_name)
        if key in _held:
            return _held[key].source
        if look or key not in _seen:
            _seen[key] = _look(name, config_name)
        return _seen[key]


@contextmanager
def held(name: str, config_name: str = "") -> Iterator[Source]:
    """Keep one state of a data set for every thread of this process until the block ends.

    The first block looks; blocks that overlap with it share what it has found.

    Raises
    ------
    FedSplitError
        As `source_of`.
    """
    with _lock:
        key = _key(name, config_name)
        entry = _held.get(key) or _Held(_look(name, config_name))
        entry.num_runs += 1
        _held[key] = entry
        _seen.pop(key, None)
    try:
        yield entry.source
    finally:
        with _lock:
            entry.num_runs -= 1
            if not entry.num_runs:
                del _held[key]


def is_held(source: Source) -> bool:
    """Return whether a run still reads this state."""
    with _lock:
        return any(entry.source == source for entry in _held.values())


def is_local(name: str) -> bool:
    """Return whether reading a data set needs no download by fedsplit."""
    return name in BUNDLED or is_reference(name) or local_directory(name) is not None


def allowed_by(source: Source, *, follow_links: bool) -> AllowedFolders | None:
    """Return where the files must be that rows of a data set name; None = anywhere."""
    if isinstance(source, FolderState):
        return allowed_folders(Path(source.path), follow_links=follow_links)
    return AllowedFolders(*cache_folders()) if isinstance(source, HubDataset) else None


def read(source: Source, *, follow_links: bool = False) -> Mapping[str, datasets.Dataset]:
    """Return the splits of a data set, by name.

    `follow_links` is ``data.follow-links``.

    Raises
    ------
    DataError
        If they cannot be read.
    """
    if isinstance(source, Bundled):
        bundled: Mapping[str, datasets.Dataset] = BUNDLED[source.name]()
        return bundled
    if isinstance(source, FolderState):
        return read_folder(Path(source.path), follow_links=follow_links)
    if isinstance(source, HubDataset):
        return read_hub(source.name, source.config_name)
    return source.splits


def _key(name: str, config_name: str) -> _Key:
    # Two objects may have one name: a callback of a run may make a run with another data set.
    given = given_object(name, key="data.name") if is_object(name) else None
    return (name, config_name, given)


def _look(name: str, config_name: str) -> Source:
    if config_name and is_local(name):
        raise DataError(
            f"data.config-name = '{config_name}' names a subset of a data set of the Hugging Face "
            f"Hub, and '{name}' (data.name) is not one. Leave it empty."
        )
    if name in BUNDLED:
        return Bundled(name)
    if is_object(name):
        return FunctionResult(splits_of(given_object(name, key="data.name").value))
    if is_reference(name):
        return FunctionResult(call_function(name))
    folder = local_directory(name)
    if folder is not None:
        return folder_state(folder)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        whole = os.path.abspath(os.path.expanduser(name))
        where = "" if whole == name else f": there is no '{whole}'"
        raise DataError(
            f"The data folder '{name}' (data.name) does not exist{where}. Give the path of a "
            "folder with class folders of images or of a data set saved with save_to_disk, a "
            "function (package.module:name), the id of a data set on the Hugging Face Hub, or a "
            f"bundled name ({', '.join(BUNDLED)})."
        )
    if meant := near_miss(name, BUNDLED):
        raise DataError(f"There is no data set '{name}' (data.name); did you mean '{meant}'?")
    return HubDataset(name, config_name)
