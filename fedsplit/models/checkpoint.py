"""Build, read and write whole models: strictly, quietly, one thread at a time."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.family import Family
from fedsplit.models.hub import Source
from fedsplit.models.image_sizes import check_image_size
from fedsplit.models.left_out import tell_left_out
from fedsplit.models.libraries.custom import LIBRARY as CUSTOM
from fedsplit.models.making import quietly
from fedsplit.models.processing import processor_of
from fedsplit.models.registry import family_of
from fedsplit.models.storage import weight_slots
from fedsplit.models.weights import Filling, write

_COLOURS = (
    ". It has weights for RGB images, and its config.json says 1 channel: set that to 3, because "
    "grey images are made RGB for a model of 3 channels"
)


def build(source: Source, family: Family, num_labels: int | None) -> nn.Module:
    """Make a model from its config alone, in eval mode and float32.

    Weights are drawn from torch's global generator.

    Raises
    ------
    ModelError
        If it cannot be built, or cannot take images of the size asked for.
    """
    _check_size(source, family, num_labels)
    with quietly(source.name):
        model: nn.Module = family.load_library().build(source, family.load_class(), num_labels)
    return model.float().eval()


def build_empty(source: Source, family: Family, num_labels: int | None) -> nn.Module:
    """Make a model whose weights have no storage; buffers that are no weights keep their values.

    Nothing is drawn.

    Raises
    ------
    ModelError
        As `build`.
    """
    _check_size(source, family, num_labels)
    with quietly(source.name):
        library, model_class = family.load_library(), family.load_class()
        model: nn.Module = library.build_empty(source, model_class, num_labels)
    return model.float().eval()


def _check_size(source: Source, family: Family, num_labels: int | None) -> None:
    if source.image_size:
        own_size = build_empty(replace(source, image_size=0), family, num_labels)
        check_image_size(source.name, family, own_size, source.image_size)


def load(
    source: Source,
    family: Family,
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
    family : Family
        Its family.
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
            lambda name: name.startswith(family.ignored_keys) or library.may_be_left(empty, name),
        )
        if faults:
            if _lacks_colours(empty, filling):
                faults += _COLOURS
            raise _misfit(source, family, faults, fresh_head=asks_fresh_head)
        tell_left_out(source.name, empty, filling.without_place())
        fresh = filling.fill(names, torch.device(device), dtype)
        if fresh:
            library.draw(empty, fresh)
    return empty


def save_model(
    model: nn.Module,
    spec: InputSpec,
    directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write a whole model as model.safetensors, config.json and preprocessor_config.json.

    The directory loads again with `load_split_model`, and with the model's own library. Of a model
    with an attribute ``factory`` the config names that, and the weights are no other library's.

    Parameters
    ----------
    model : nn.Module
        A whole model, for example `SplitModel.merge()`.
    spec : InputSpec
        The images it takes.
    directory : str | Path
        Where to; made if it does not exist.
    class_names : Sequence[str], optional
        Of each class, in the order of the logits (see `label_names`). They go into config.json,
        and into the model's own config or attribute ``class_names``. By default those that the
        model has are kept.

    Raises
    ------
    ModelError
        If the directory cannot be written, the model is of no known family, or there are more
        names than logits.
    """
    family = family_of(model)
    processor = processor_of(spec)
    if family.image_processor:
        processor["image_processor_type"] = family.image_processor
    with quietly(str(directory), doing="saved"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        library = CUSTOM if getattr(model, "factory", "") else family.load_library()
        library.save(model, Path(directory), class_names)
        text = json.dumps(processor, indent=2) + "\n"
        written = Path(directory) / "preprocessor_config.json"
        written.write_text(text, encoding="utf-8")
        for weights in Path(directory).glob("*.safetensors"):  # as the umask says
            weights.chmod(written.stat().st_mode)


def save_part(state: Mapping[str, Tensor], file: Path) -> None:
    """Write the weights of a part as a safetensors file, in a folder that is made if need be.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    with quietly(str(file), doing="saved"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        mode = file.stat().st_mode  # as the umask says; safetensors lets only the owner read
        write(state, file)
        file.chmod(mode)


def _lacks_colours(empty: nn.Module, filling: Filling) -> bool:
    """Return whether a convolution over patches differs in nothing but 3 stored channels for 1."""
    for name, (_, _, weight) in weight_slots(empty):
        shape, stored = tuple(weight.shape), filling.stored_shape(name)
        if stored != shape and stored == (*shape[:1], 3, *shape[2:]) and shape[1:2] == (1,):
            return True
    return False


def _misfit(source: Source, family: Family, faults: str, *, fresh_head: bool) -> ModelError:
    return ModelError(
        f"The weights in '{source.directory or source.name}' do not fit {family.class_name} with "
        f"their config.json: {faults}. Use a checkpoint of this architecture"
        + ("." if fresh_head else "; a new classifier is made only for another num_labels.")
    )
