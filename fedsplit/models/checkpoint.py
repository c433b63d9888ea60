"""Build, read and write whole Hugging Face models: strictly, quietly, one thread at a time."""

from __future__ import annotations

import importlib
import json
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models.hub import Source
from fedsplit.models.registry import Family, family_of, family_of_config
from fedsplit.models.stages import InputSpec, Root

# Importing transformers, its verbosity and the meta-device context are all global.
_lock = threading.RLock()


def build(source: Source, *, num_labels: int | None = None, meta: bool = False) -> nn.Module:
    """Make a model from its config alone, in eval mode and float32.

    Weights are drawn from torch's global generator, or have no storage if `meta`, and then
    nothing is drawn.
    """
    family = family_of_config(source.config)
    with _quietly(source.name):
        config = _configuration(source, family, num_labels)
        with torch.device("meta" if meta else "cpu"):
            model: nn.Module = family.load_class()(config)
    return model.float().eval()


def load(source: Source, *, num_labels: int | None = None) -> nn.Module:
    """Read a model from its directory, in eval mode and float32.

    Raises
    ------
    ModelError
        If a key is missing, unexpected, or of another shape. Only the classifier may be drawn
        afresh: where `num_labels` differs from the checkpoint's, or it has no classifier.
    """
    family = family_of_config(source.config)
    with _quietly(source.name):
        model, found = family.load_class().from_pretrained(
            source.directory,
            config=_configuration(source, family, num_labels),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # _check_keys judges them
            output_loading_info=True,
        )
        _check_keys(source, family, found, fresh_head=_asks_fresh_head(source, family, num_labels))
    module: nn.Module = model.eval()
    return module


def save_model(model: nn.Module, spec: InputSpec, directory: str | Path) -> None:
    """Write a whole model as model.safetensors, config.json and preprocessor_config.json.

    The directory loads again with `load_split_model` and with plain transformers.

    Parameters
    ----------
    model : nn.Module
        A whole model, for example `SplitModel.merge()`.
    spec : InputSpec
        The images it takes.
    directory : str | Path
        Where to; made if it does not exist.

    Raises
    ------
    ModelError
        If the directory cannot be written, or the model is of no known family.
    """
    family = family_of(model)
    processor = {
        "do_resize": True,
        "size": {"height": spec.height, "width": spec.width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    if family.image_processor:
        processor["image_processor_type"] = family.image_processor
    with _quietly(str(directory), doing="saved"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        whole: Any = model
        whole.save_pretrained(directory)
        text = json.dumps(processor, indent=2) + "\n"
        (Path(directory) / "preprocessor_config.json").write_text(text, encoding="utf-8")


def save_part(state: Mapping[str, Tensor], file: Path) -> None:
    """Write the weights of a part as a safetensors file, in a folder that is made if need be.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    with _quietly(str(file), doing="saved"):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, file)


def _configuration(source: Source, family: Family, num_labels: int | None) -> Root:
    overrides: dict[str, Any] = {}
    if num_labels is not None:
        if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
            raise ModelError(f"num_labels is {num_labels!r}; give a whole number of at least 1.")
        overrides["num_labels"] = num_labels
    return family.load_class().config_class.from_dict(dict(source.config), **overrides)


def _asks_fresh_head(source: Source, family: Family, num_labels: int | None) -> bool:
    if num_labels is None:
        return False
    headless = family.class_name not in (source.config.get("architectures") or [])
    return headless or num_labels != _configuration(source, family, None).num_labels


def _check_keys(
    source: Source, family: Family, found: Mapping[str, Any], *, fresh_head: bool
) -> None:
    may_be_fresh = family.head if fresh_head else ()
    problems = {
        "missing": _outside(found["missing_keys"], may_be_fresh),
        "unexpected": _outside(found["unexpected_keys"], family.unused),
        "of another shape": [
            f"{key} {tuple(stored)} instead of {tuple(wanted)}"
            for key, stored, wanted in sorted(found["mismatched_keys"])
            if not key.startswith(tuple(may_be_fresh))
        ],
        "unreadable": list(found.get("error_msgs") or []),
    }
    told = "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for kind, keys in problems.items()
        if keys
    )
    if told:
        raise ModelError(
            f"The weights in '{source.directory}' do not fit {family.class_name} with their "
            f"config.json: {told}. Use a checkpoint of this architecture"
            + ("." if fresh_head else "; a new classifier is made only for another num_labels.")
        )


def _outside(keys: Iterable[str], prefixes: Iterable[str]) -> list[str]:
    return sorted(key for key in keys if not key.startswith(tuple(prefixes)))


@contextmanager
def _quietly(name: str, *, doing: str = "loaded") -> Iterator[None]:
    """Hold the lock, silence transformers, and turn any failure into a `ModelError`."""
    with _lock:
        try:
            with _silence(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except ModelError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(
                f"The model '{name}' cannot be {doing}: {reason}{'' if reason[-1] == '.' else '.'} "
                "Check the directory and its config.json."
            ) from None


@contextmanager
def _silence() -> Iterator[None]:
    hub = importlib.import_module("huggingface_hub.utils")
    logging = importlib.import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()  # the hub's too
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()
