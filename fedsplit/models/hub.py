"""Find a model by its name: its config, and its directory if it has one.

A model is built in, lies in a local directory, comes from a library or from a function, or is
fetched from the Hugging Face Hub.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsplit.cache import OnceCache
from fedsplit.errors import ModelError
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.models.config_files import processor_text, read_config
from fedsplit.models.config_values import check_values
from fedsplit.models.directory import CONFIG, INDEX, PROCESSOR, SINGLE, WHOLE_PROCESSOR, parse
from fedsplit.models.known_configs import LIBRARY_TYPES, as_known, config_of_name
from fedsplit.names import local_directory, near_miss
from fedsplit.references import is_reference

PROBE_SECONDS = 5.0
_CONFIGS = (CONFIG, PROCESSOR, WHOLE_PROCESSOR)


@dataclass(frozen=True)
class Source:
    """What is known of a model before it is built.

    Attributes
    ----------
    name : str
        As the user calls it.
    config : Mapping[str, Any]
        The contents of config.json, or what stands for them.
    directory : Path | None
        Where its files are, as an absolute path.
    from_hub : bool
        Whether the directory is a snapshot in the cache of huggingface_hub.
    processor_text : str
        The text of preprocessor_config.json; empty if there is none.
    image_size : int
        Height and width of the images that it is to take, in pixels; 0 = its own size.
    trust : bool
        Whether links in the directory may lead out of it, and its config may name a function.
    """

    name: str
    config: Mapping[str, Any]
    directory: Path | None
    from_hub: bool = False
    processor_text: str = ""
    image_size: int = 0
    trust: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether weights are stored for it; built-in models and functions have none."""
        return self.directory is not None or self.config["model_type"] in LIBRARY_TYPES

    @property
    def made_by_function(self) -> bool:
        """Whether a function of the user's makes the model, named by the user or in config.json."""
        return "factory" in self.config

    @property
    def sha256(self) -> str:
        """Digest of the contents of both config files, and of the size of images."""
        text = json.dumps([self.config, self.processor_text, self.image_size], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def processor(self) -> dict[str, Any]:
        """Return the contents of preprocessor_config.json; empty if there is none.

        Raises
        ------
        ModelError
            If it holds no JSON object.
        """
        if not self.processor_text:
            return {}
        assert self.directory is not None
        return parse(self.processor_text, self.directory / PROCESSOR)


def find_model(
    model_name: str, *, cache_dir: str | Path | None = None, trust: bool = False
) -> Source:
    """Find a model, and fetch its configs if it lies on the hub.

    Parameters
    ----------
    model_name : str
        A built-in name, the name of a library's model (``torchvision:vit_b_16``), a function that
        makes the model (``package.module:function``), a local directory, or a Hugging Face id.
        The name is looked for in that order.
    cache_dir : str | Path, optional
        Where hub files are kept; default as in huggingface_hub.
    trust : bool
        Whether the files of its directory may name code, and links in it lead out.

    Raises
    ------
    ModelError
        If there is no such model, the hub cannot be reached, or its files are not those of a model.
    """
    if model_name in BUILTIN_MODELS:
        return Source(model_name, BUILTIN_MODELS[model_name], None)
    library, _, architecture = model_name.partition(":")
    named = config_of_name(library, architecture) if architecture else None
    if named is not None:
        return Source(model_name, named, None)
    if is_reference(model_name):
        return Source(model_name, {"model_type": "custom", "factory": model_name}, None)
    local = local_directory(model_name)
    if local is None and (meant := near_miss(model_name, BUILTIN_MODELS)):
        raise ModelError(f"There is no model '{model_name}'; did you mean '{meant}'?")
    directory = (fetch_configs(model_name, cache_dir) if local is None else local).absolute()
    if not (directory / CONFIG).is_file():
        raise ModelError(
            f"The model directory '{directory}' has no config.json. Give a directory written by "
            "save_pretrained, or by a fedsplit run (its model/ folder)."
        )
    config = read_config(directory, CONFIG, trust=trust)
    check_values(config, directory / CONFIG)
    known, text = as_known(config), processor_text(directory, trust=trust)
    return Source(model_name, known, directory, local is None, processor_text=text, trust=trust)


@dataclass(frozen=True)
class _Lookup:
    """All that a lookup on the hub depends on."""

    model_id: str
    cache_dir: str | None
    files: tuple[str, ...]
    revision: str | None


# A process looks up each id once: a run in progress must not depend on the hub, nor meet another
# commit.
_lookups: OnceCache[Path] = OnceCache(64)


def fetch_configs(model_id: str, cache_dir: str | Path | None) -> Path:
    """Fetch the configs of a Hugging Face id, once in a process, and return its directory.

    Raises
    ------
    ModelError
        If there is no such model, or the hub cannot be reached.
    """
    if model_id.startswith((".", "/", "~")) or model_id.count("/") > 1 or not model_id:
        raise ModelError(f"The model directory '{model_id}' does not exist. {_alternatives()}")
    return _snapshot(model_id, cache_dir, *_CONFIGS)


def fetch_weights(
    model_id: str, cache_dir: str | Path | None, *, revision: str | None = None
) -> Path:
    """Fetch the weights of a Hugging Face id, once in a process, and return its directory.

    Of weights in shards only the index is fetched; `fetch_file` fetches a shard.

    Parameters
    ----------
    model_id : str
        The id.
    cache_dir : str | Path | None
        Where hub files are kept.
    revision : str, optional
        The commit that the configs are of; default the newest.

    Raises
    ------
    ModelError
        If there is no such model, or the hub cannot be reached.
    """
    folder = _snapshot(model_id, cache_dir, *_CONFIGS, INDEX, revision=revision)
    if (folder / INDEX).is_file():
        return folder
    return _snapshot(model_id, cache_dir, *_CONFIGS, SINGLE, revision=revision)


def fetch_file(source: Source, file_name: str, *, cache_dir: str | Path | None) -> None:
    """Fetch one more file of a model from the hub, into its directory.

    Raises
    ------
    ModelError
        If there is no such file, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    assert source.directory is not None
    with _explained(f"file {file_name} of the model '{source.name}'", "not") as reachable:
        hf_hub_download(
            source.name,
            file_name,
            revision=source.directory.name,  # the commit that the index is of
            cache_dir=cache_dir,
            local_files_only=not reachable,
        )


def _snapshot(
    model_id: str, cache_dir: str | Path | None, *files: str, revision: str | None = None
) -> Path:
    from huggingface_hub import snapshot_download

    where = None if cache_dir is None else str(cache_dir)

    def download() -> Path:
        with _explained(f"model '{model_id}'", _NOWHERE) as reachable:
            return Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=where,
                    allow_patterns=list(files),
                    local_files_only=not reachable,
                )
            )

    return _lookups.get(_Lookup(model_id, where, files, revision), download)


_NOWHERE = "neither built in nor a local directory nor"


@contextmanager
def _explained(what: str, where: str) -> Iterator[bool]:
    """Yield whether the hub can be reached, and turn what fails into one clear error."""
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
            f"The {what} cannot be fetched from the Hugging Face Hub: "
            f"{_first_line(error)} {_alternatives()}"
        ) from None


def _hub_reachable() -> tuple[bool, str]:
    # One short attempt of our own: huggingface_hub retries a dead hub for half a minute.
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
