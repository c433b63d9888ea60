"""Data sets of the Hugging Face Hub, with one clear error if it cannot be reached."""

from __future__ import annotations

from pathlib import Path

import datasets
import httpx
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from fedsplit.errors import DataError

PROBE_TIMEOUT_SECONDS = 5.0


def read_hub(name: str, config_name: str = "") -> dict[str, datasets.Dataset]:
    """Return the splits of a Hub data set by name, downloaded unless in the local cache.

    Parameters
    ----------
    name, config_name : str
        Its id, and that of a subset; empty = its only or default one.


    Raises
    ------
    DataError
        If the Hub cannot be reached (raised within seconds: `load_dataset` alone retries for
        23 s) or has no such data set, or if the data set cannot be loaded.
    """
    unreachable = _probe(name)
    if unreachable and not _in_cache(name):
        raise DataError(
            f"The data set '{name}' (data.name) cannot be loaded: the Hugging Face Hub could not "
            f"be reached ({unreachable}), and no copy is in the local cache. Check the network, or "
            "set data.name to a local folder (class folders of images, or a data set saved with "
            "save_to_disk) or to the bundled 'fashion-mini'."
        )
    try:
        loaded = datasets.load_dataset(name, config_name or None)
    except Exception as error:
        raise DataError(
            f"The data set '{name}' (data.name) cannot be loaded from the Hugging Face Hub "
            f"({type(error).__name__}: {error}). Choose another one, or one of its subsets with "
            "data.config-name, or set data.name to a local folder that holds a data set saved with "
            "save_to_disk."
        ) from error
    return {str(split): dataset for split, dataset in loaded.items()}


def cache_folders() -> list[str]:
    """Return the folders into which `datasets` downloads: images of Hub data sets lie there."""
    config = datasets.config
    caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    return [str(cache) for cache in caches]


def _probe(name: str) -> str:
    """Return why the Hub cannot be reached, or ""; refuse a name that the Hub does not know."""
    try:
        HfApi().dataset_info(name, timeout=PROBE_TIMEOUT_SECONDS)
    except (HfHubHTTPError, HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status >= 500:
            return f"HTTP status {status}"
        raise DataError(
            f"There is no data set '{name}' (data.name): it is not a local folder, not a function "
            "(package.module:name) and not the bundled 'fashion-mini', and the Hugging Face Hub "
            f"refuses it ({_first_line(error)}). Check the name; a private or gated data set needs "
            "a login with `hf auth login`."
        ) from error
    except (OSError, httpx.HTTPError) as error:
        return _first_line(error)
    return ""


def _in_cache(name: str) -> bool:
    *namespace, dataset = name.split("/")
    folder = "___".join([*namespace, camelcase_to_snakecase(dataset)])
    return (Path(datasets.config.HF_DATASETS_CACHE) / folder).is_dir()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
