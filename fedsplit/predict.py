"""``fedsplit predict``: what the model of a run says of images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from fedsplit.config import Config
from fedsplit.data.class_folders import inside, is_image
from fedsplit.data.decode import UndecodableError
from fedsplit.data.image_file import ImageBounds
from fedsplit.data.loader import Images, images_of_files
from fedsplit.data.regular_files import special_kind
from fedsplit.errors import ConfigError, DataError
from fedsplit.input_spec import InputSpec
from fedsplit.models.directory import CONFIG, file_in, parse, read_text
from fedsplit.models.labels import are_generic, label_names, stored_names
from fedsplit.models.loading import input_spec, load_model
from fedsplit.models.resolved import resolve
from fedsplit.names import printable, some
from fedsplit.references import is_reference
from fedsplit.results.run_paths import RunPaths
from fedsplit.results.shards_file import read_shards

_logger = logging.getLogger(__name__)
_BATCH_SIZE = 32
_SHOWN = 3


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes
    ----------
    path : Path
        The image's file.
    probabilities : dict[str, float]
        Of each class by its name, the most probable first; they add up to 1.
    """

    path: Path
    probabilities: dict[str, float]


def predict(
    run_dir: Path, paths: Sequence[Path], *, best: bool = False, trust: bool = False
) -> list[Prediction]:
    """Return what the model of a run says of images, in the order of the paths.

    The images are fitted to the model as in the run's own test.

    Parameters
    ----------
    run_dir : Path
        The directory of a run that has saved its model.
    paths : Sequence[Path]
        Image files, and folders of them.
    best : bool
        Take the weights after the best round, not the last.
    trust : bool
        As `model.trust`, for a saved model that names another function than the run's config.

    Raises
    ------
    FedSplitError
        If the run has no such model, or a path is no image that can be read.
    """
    run = RunPaths(run_dir)
    directory = run.best_dir if best else run.model_dir
    there = directory.is_dir() and run.shards_path.is_file() and run.config_path.is_file()
    if not there:
        raise ConfigError(
            f"'{run_dir}' has no {directory.name}/: it is not the directory of a run that has "
            "ended. Give one, such as runs/sflv1-fashion-mini-20261129-080906."
        )
    if (run.best_clients_dir if best else run.clients_dir).is_dir():
        _logger.warning(
            "Every client of this run keeps a bottom of its own. This is the model with that of "
            "client 0; the run's test accuracy is the mean over all clients."
        )
    files = [file for path in paths for file in _files(path)]
    classes = read_shards(run.shards_path).class_names
    names = label_names(classes, len(classes))  # two classes may have one name
    config = Config.load(run.config_path)
    bounds = ImageBounds(config.data.max_pixels)
    trust = trust or _is_trusted(config, directory)
    _check_names(resolve(str(directory), trust=trust).source.config, classes, run.path)
    model = load_model(str(directory), trust=trust).eval()
    found_spec = input_spec(str(directory), trust=trust)
    spec = replace(found_spec, background=config.data.background)
    try:
        images = images_of_files(files, spec, bounds)
        found = _scores(model, images, len(names))
    except UndecodableError as error:
        raise _naming_the_file(files, spec, bounds, error) from None
    return [
        Prediction(file, dict(sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])))
        for file, scores in zip(files, found, strict=True)
    ]


def _is_trusted(config: Config, directory: Path) -> bool:
    """Return whether the function that a saved model names may be called.

    It may if the run's own config names the same one, as whoever began the run has written it.
    """
    if config.model.trust or not is_reference(config.model.name):
        return config.model.trust
    path = file_in(directory, CONFIG, trust=False)
    return parse(read_text(path), path).get("factory") == config.model.name


def _check_names(config: Mapping[str, Any], classes: Sequence[str], run_dir: Path) -> None:
    """Refuse a model of other classes than those of the run: its scores would get their names."""
    stored = stored_names(config)
    if are_generic(stored):
        return
    expected = label_names(classes, len(stored))
    if stored != expected:
        raise DataError(
            f"The model of '{run_dir}' tells apart {some(stored, 10)}, and the shards.json beside "
            f"it has the classes {some(expected, 10)}. Take both as one run has written them."
        )


def _scores(model: nn.Module, images: Images, num_classes: int) -> list[list[float]]:
    """Return the probabilities of each image, [N, classes]."""
    found: list[list[float]] = []
    for indices in torch.split(torch.arange(len(images)), _BATCH_SIZE):
        with torch.no_grad():
            output = model(images.batch(indices)[0])
        logits = output if isinstance(output, torch.Tensor) else output.logits
        if logits.shape[1] < num_classes:
            raise DataError(
                f"The model has {logits.shape[1]} logits, and the shards.json of its run "
                f"{num_classes} classes. Take both as one run has written them."
            )
        found += logits[:, :num_classes].float().softmax(dim=-1).tolist()
    return found


def _naming_the_file(
    files: Sequence[Path], spec: InputSpec, bounds: ImageBounds, error: DataError
) -> DataError:
    """Return the error about the first of these files that cannot be decoded."""
    for file in files:
        try:
            images_of_files([file], spec, bounds).batch(torch.tensor([0]))
        except UndecodableError as found:
            return DataError(
                f"'{file}' {found.reason}. {found.own_remedy}, or give the paths of the other "
                "images."
            )
    return error


def _files(path: Path) -> Iterator[Path]:
    if kind := special_kind(path):
        raise DataError(f"'{path}' is {kind}, not a file. Give the paths of images.")
    if path.is_dir():
        files = sorted(file for file in inside(path) if not file.is_dir() and is_image(file))
        if not files:
            raise DataError(f"The folder '{path}' has no image in it. Give images, or another one.")
        for file in files:
            if kind := special_kind(file):
                raise DataError(f"'{file}' is {kind}, not an image file. Remove it.")
            yield file
    elif path.is_file() and is_image(path):
        yield path
    else:
        what = "is no image that can be read" if path.is_file() else "does not exist"
        raise DataError(f"'{path}' {what}. Give the paths of images, or of folders of images.")


def to_json(found: Sequence[Prediction]) -> str:
    """Return all classes of every image as JSON."""
    rows = [{"image": str(p.path), "probabilities": p.probabilities} for p in found]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def prediction_table(found: Sequence[Prediction]) -> str:
    """Return the most probable classes of every image as text."""
    table = Table("image", "class", "", "others", box=box.SIMPLE_HEAD, show_edge=False)
    table.columns[2].justify = "right"
    for prediction in found:
        (first, score), *others = list(prediction.probabilities.items())[:_SHOWN]
        rest = ", ".join(f"{printable(name)} {other:.2f}" for name, other in others)
        table.add_row(printable(str(prediction.path)), printable(first), f"{score:.2f}", rest)
    file = StringIO()
    Console(file=file, width=1000, color_system=None, markup=False).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
