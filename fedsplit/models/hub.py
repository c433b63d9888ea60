"""From a model's name to its config and its directory: built-in, local, or from the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsplit.errors import ModelError
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.names import local_directory

_CONFIG_FILES = ["config.json", "preprocessor_config.json"]
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""A name of a function that makes the model: ``package.module:function``."""
PROBE_SECONDS = 5.0
_LIBRARIES = {"torchvision": "torchvision-vit", "timm": "timm-vit"}


@dataclass(frozen=True)
class Source:
    """A model found by its name: config.json, and the directory if it has one."""

    name: str
    config: Mapping[str, Any]
    directory: Path | None
    from_hub: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether weights are kept for it: not if it is built in, or made by a function."""
        return self.directory is not None or self.config["model_type"] in _LIBRARIES.values()

    def read_json(self, file_name: str) -> dict[str, Any]:
        """Return another JSON file of the model's directory; empty if there is none."""
        if self.directory is None or not (self.directory / file_name).is_file():
            return {}
        return _read_json(self.directory / file_name)


def find_model(
    model_name: str, *, cache_dir: str | Path | None = None, weights: bool = False
) -> Source:
    """Find a model, and fetch what is needed of it if it lies on the hub.

    Parameters
    ----------
    model_name : str
        A built-in name, a library's own (``torchvision:vit_b_16``), a function that makes the
        model (``package.module:function``), a local directory, or a Hugging Face id. A name is
        looked for in that order.
    cache_dir : str | Path, optional
        Where hub files are kept; default as in huggingface_hub.
    weights : bool
        Fetch the weights too, not only the configs. (Those of a library's own name, and shards,
        are fetched when they are opened.)

    Raises
    ------
    ModelError
        If there is no such model, or the hub cannot be reached.
    """
    if model_name in BUILTIN_MODELS:
        return Source(model_name, BUILTIN_MODELS[model_name], None)
    library, _, architecture = model_name.partition(":")
    if library in _LIBRARIES and architecture:
        config = {"model_type": _LIBRARIES[library], "architecture": architecture}
        return Source(model_name, config, None)
    if FACTORY.fullmatch(model_name):
        return Source(model_name, {"model_type": "custom", "factory": model_name}, None)
    local = local_directory(model_name)
    directory = local or fetch(model_name, cache_dir, weights=weights)
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"The model directory '{directory}' has no config.json. Give a directory written by "
            "save_pretrained, or by a fedsplit run (its model/ folder)."
        )
    config = _read_json(directory / "config.json")
    if "model_type" not in config and "pretrained_cfg" in config:  # as timm writes it
        config = {"model_type": _LIBRARIES["timm"], **config}
    return Source(model_name, config, directory, from_hub=local is None)


def stamp(model_name: str) -> tuple[int, int]:
    """Return what changes when a local model's config is written anew, as a cache key."""
    directory = local_directory(model_name)
    if directory is None:
        return (0, 0)
    try:
        status = (directory / "config.json").stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def fetch(model_name: str, cache_dir: str | Path | None, *, weights: bool) -> Path:
    """Fetch what is needed of a Hugging Face id, and return its directory.

    Of weights in shards it is their index; `fetch_file` brings a shard.

    Raises
    ------
    ModelError
        If there is no such model, or the hub cannot be reached.
    """
    if model_name.startswith((".", "/", "~")) or model_name.count("/") > 1 or not model_name:
        raise ModelError(f"The model directory '{model_name}' does not exist. {_alternatives()}")
    from huggingface_hub import snapshot_download

    def snapshot(*files: str) -> Path:
        with _told(f"model '{model_name}'", _NOWHERE) as reachable:
            return Path(
                snapshot_download(
                    model_name,
                    cache_dir=cache_dir,
                    allow_patterns=[*_CONFIG_FILES, *files],
                    local_files_only=not reachable,
                )
            )

    if not weights:
        return snapshot()
    folder = snapshot(INDEX)
    return folder if (folder / INDEX).is_file() else snapshot(SINGLE)


def fetch_file(source: Source, file_name: str, *, cache_dir: str | Path | None) -> None:
    """Fetch one more file of a model from the hub, into its directory.

    Raises
    ------
    ModelError
        If there is no such file, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    assert source.directory is not None
    with _told(f"file {file_name} of the model '{source.name}'", "not") as reachable:
        hf_hub_download(
            source.name,
            file_name,
            revision=source.directory.name,  # the commit that the index is of
            cache_dir=cache_dir,
            local_files_only=not reachable,
        )


_NOWHERE = "neither built in nor a local directory nor"


@contextmanager
def _told(what: str, where: str) -> Iterator[bool]:
    """Give whether the hub can be reached; what then fails is one clear error."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    reachable, reason = _hub_reachable()
    try:
        yield reachable
    except HFValidationError:
        raise ModelError(
            f"The {what} is no directory and cannot be a Hugging Face id. {_alternatives()}"
        ) from None
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"The {what} is {where} in the local Hugging Face cache, and the hub at "
            f"{constants.ENDPOINT} cannot be reached ({reason or _first_line(error)}). "
            f"{_alternatives()}"
        ) from None
    except Exception as error:
        raise ModelError(
            f"The {what} cannot be had from the Hugging Face hub: "
            f"{_first_line(error)} {_alternatives()}"
        ) from None


def _hub_reachable() -> tuple[bool, str]:
    # One short try of our own: huggingface_hub would retry a dead hub for half a minute.
    import httpx
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except (OSError, httpx.HTTPError) as error:
        return False, _first_line(error)
    return True, ""


def _alternatives() -> str:
    return (
        f"Use a built-in model ({', '.join(BUILTIN_MODELS)}), or the path of a local directory "
        "that holds config.json and model.safetensors."
    )


_WRITE_IT_AGAIN = "Repair it, or copy or save the model again."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The file '{path}' cannot be read as JSON: {error}. {_WRITE_IT_AGAIN}"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(
            f"The file '{path}' must hold a JSON object, not {content!r:.40}. {_WRITE_IT_AGAIN}"
        )
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
