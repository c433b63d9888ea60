"""Build, read and write whole models: strictly, quietly, one thread at a time."""

from __future__ import annotations

import importlib
import json
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.family import Family
from fedsplit.models.hub import Source
from fedsplit.models.processing import processor_of
from fedsplit.models.registry import family_of, family_of_config
from fedsplit.models.storage import weight_slots
from fedsplit.models.weights import Filling, write

# Importing transformers, its verbosity and the meta-device context are all global.
_lock = threading.RLock()


def build(source: Source, *, num_labels: int | None = None) -> nn.Module:
    """Make a model from its config alone, in eval mode and float32.

    Weights are drawn from torch's global generator.
    """
    family = family_of_config(source.config, num_labels, name=source.name)
    with quietly(source.name):
        model = family.load_library().build(source, family.load_class(), _checked(num_labels))
    return _prepared(model)


def build_empty(source: Source, *, num_labels: int | None = None) -> nn.Module:
    """Make a model whose weights have no storage; buffers that are no weights are there.

    Nothing is drawn.
    """
    family = family_of_config(source.config, num_labels, name=source.name)
    with quietly(source.name):
        model = family.load_library().build_empty(source, family.load_class(), _checked(num_labels))
    return _prepared(model)


def load(
    source: Source,
    empty: nn.Module,
    *,
    num_labels: int | None = None,
    wanted: Collection[str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    cache_dir: str | Path | None = None,
) -> nn.Module:
    """Read a model, or some of its weights, from its directory or as its library has them.

    Parameters
    ----------
    source : Source
        Not a built-in model.
    empty : nn.Module
        The model as `build_empty` makes it; it is changed and returned.
    num_labels : int, optional
        As it was built with.
    wanted : Collection[str], optional
        Names of the weights to read; the others stay without storage. Default all.
    device, dtype : str | torch.device, torch.dtype, optional
        Of what is read.
    cache_dir : str | Path, optional
        Where hub files are kept.

    Raises
    ------
    ModelError
        If a key is missing, unexpected, or of another shape. Only the classifier may be drawn
        afresh: where `num_labels` differs from the checkpoint's, or it has no classifier.
    """
    family = family_of_config(source.config, num_labels, name=source.name)
    library = family.load_library()
    names = {name for name, _ in weight_slots(empty)} if wanted is None else wanted
    with quietly(source.name), library.open(source, empty, cache_dir) as checkpoint:
        stored = library.stored_labels(source, family.load_class())
        asks_fresh_head = num_labels is not None and num_labels != stored
        filling = Filling(
            empty,
            checkpoint,
            name_of=library.names(empty),
            fresh=family.head if asks_fresh_head else (),
        )
        faults = filling.faults(
            names,
            lambda name: name.startswith(family.unused) or library.may_be_left(empty, name),
        )
        if faults:
            raise _misfit(source, family, faults, fresh_head=asks_fresh_head)
        fresh = filling.fill(names, torch.device(device), dtype)
        if fresh:
            library.draw(empty, fresh)
    return empty


def save_model(model: nn.Module, spec: InputSpec, directory: str | Path) -> None:
    """Write a whole model as model.safetensors, config.json and preprocessor_config.json.

    The directory loads again with `load_split_model`, and with the model's own library.

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
    processor = processor_of(spec)
    if family.image_processor:
        processor["image_processor_type"] = family.image_processor
    with quietly(str(directory), doing="saved"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        family.load_library().save(model, Path(directory))
        text = json.dumps(processor, indent=2) + "\n"
        (Path(directory) / "preprocessor_config.json").write_text(text, encoding="utf-8")


def save_part(state: Mapping[str, Tensor], file: Path) -> None:
    """Write the weights of a part as a safetensors file, in a folder that is made if need be.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    with quietly(str(file), doing="saved"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write(state, file)


def _prepared(model: nn.Module) -> nn.Module:
    return model.float().eval()


def _checked(num_labels: int | None) -> int | None:
    whole = isinstance(num_labels, int) and not isinstance(num_labels, bool)
    if num_labels is not None and not (whole and num_labels >= 1):
        raise ModelError(f"num_labels is {num_labels!r}; give a whole number of at least 1.")
    return num_labels


def _misfit(source: Source, family: Family, faults: str, *, fresh_head: bool) -> ModelError:
    return ModelError(
        f"The weights in '{source.directory or source.name}' do not fit {family.class_name} with "
        f"their config.json: {faults}. Use a checkpoint of this architecture"
        + ("." if fresh_head else "; a new classifier is made only for another num_labels.")
    )


@contextmanager
def quietly(name: str, *, doing: str = "loaded") -> Iterator[None]:
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
