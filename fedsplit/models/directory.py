"""The files of a model's directory, which may be a stranger's: what is read, and from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedsplit import bounded_json
from fedsplit.errors import ModelError, shorten

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WHOLE_PROCESSOR = "processor_config.json"
"""As transformers 5 saves a processor of texts and images: with that of images in it."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_BYTES = 2**24
"""Of a JSON file: an index of 100,000 tensors has half of that."""
MAX_FILES = 1000
"""Of a checkpoint."""
_WRITE_IT_AGAIN = "Repair it, or copy or save the model again."


def file_in(directory: Path, name: str, *, trust: bool) -> Path:
    """Return the path of a file in a directory, or refuse what is no plain file there.

    A link may lead to a file of the same directory, and to the blobs of a cache of huggingface_hub,
    whose snapshots consist of such links. Others may lead to any file of this machine.

    Parameters
    ----------
    directory : Path
        The model's.
    name : str
        The file's.
    trust : bool
        Whether links may lead anywhere (`model.trust`).

    Raises
    ------
    ModelError
        If the name has a folder in it, the file is none, or a link leads out.
    """
    if not is_plain(name):
        raise ModelError(
            f"The file name {name!r:.200} in '{directory}' is not that of a file in the directory "
            "itself. Put all files of the model into one folder, and name them without folders."
        )
    path = directory / name
    try:
        real, home = path.resolve(), directory.resolve()
        regular = real.is_file()
    except (OSError, RuntimeError):  # a link that leads to itself
        regular = False
    if not regular:
        raise ModelError(f"'{path}' is no regular file. Copy or save the model again.")
    if not trust and real.parent != home and real.parent != _blobs_of(home):
        raise ModelError(
            f"'{path}' is a link to '{real}', outside its directory. A model directory may come "
            "from a stranger, so such links are not followed. Put the file itself there, or set "
            "model.trust = true if the directory is your own."
        )
    return path


def is_plain(name: str) -> bool:
    """Return whether a name is that of a file, and leads to no other folder."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\:\0")


def _blobs_of(home: Path) -> Path | None:
    """Return where a snapshot of huggingface_hub has its contents: ``../../blobs``."""
    if home.parent.name != "snapshots":
        return None
    blobs = home.parent.parent / "blobs"
    return None if blobs.is_symlink() else blobs


def read_text(path: Path) -> str:
    """Return the text of a file that is not too long.

    Raises
    ------
    ModelError
        If it is, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return data.decode()
    except (OSError, ValueError) as error:
        raise ModelError(f"The file '{path}' cannot be read: {error}. {_WRITE_IT_AGAIN}") from None
    raise ModelError(f"The file '{path}' is longer than {MAX_BYTES} bytes. {_WRITE_IT_AGAIN}")


def parse(text: str, path: Path) -> dict[str, Any]:
    """Return what a file of JSON says; the path is for messages.

    Raises
    ------
    ModelError
        If it holds no JSON object, is nested too deep, or has a key twice.
    """
    try:
        content = bounded_json.loads(text)
    except ValueError as error:
        raise ModelError(
            f"The file '{path}' cannot be read as JSON: {error}. {_WRITE_IT_AGAIN}"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(
            f"The file '{path}' must hold a JSON object, not {content!r:.40}. {_WRITE_IT_AGAIN}"
        )
    return content


def read_index(path: Path) -> dict[str, str]:
    """Return which file of a checkpoint each tensor is in, as its index says.

    Raises
    ------
    ModelError
        If it cannot be read, or names anything but some files in the same directory.
    """
    names = parse(read_text(path), path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"The file '{path}' has no weight_map of names. {_WRITE_IT_AGAIN}")
    files = set(names.values())
    odd = sorted(name for name in files if not (is_plain(name) and name.endswith(".safetensors")))
    if odd:
        raise ModelError(
            f"The file '{path}' names {shorten(repr(odd[0]))}, which is no safetensors file in its "
            f"own directory. {_WRITE_IT_AGAIN}"
        )
    if len(files) > MAX_FILES:
        raise ModelError(
            f"The file '{path}' names {len(files)} files, more than {MAX_FILES}. Save the model in "
            "larger ones."
        )
    return names
