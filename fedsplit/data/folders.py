"""Local folders: image folders and data sets saved by `datasets`' `save_to_disk`.

Nothing is copied or cached, so that read-only folders and homes work and many processes can
open the same folder at once.
"""

from __future__ import annotations

from pathlib import Path

import datasets

from fedsplit.errors import DataError

SPLIT_NAMES = ("train", "test", "validation", "valid", "val")
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)


def read_folder(folder: Path) -> dict[str, datasets.Dataset]:
    """Return the splits in a local folder, by name.

    Parameters
    ----------
    folder : Path
        A data set or `DatasetDict` saved by ``save_to_disk``; or class folders of image files,
        either directly (split ``train``) or below ``train``, ``test``, ``validation``.

    Raises
    ------
    DataError
        If it is neither, or cannot be read.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(folder)
    split_folders = {name: folder / name for name in SPLIT_NAMES if (folder / name).is_dir()}
    if "train" not in split_folders:
        split_folders = {"train": folder}
    files = {split: _class_files(path) for split, path in split_folders.items()}
    if not files["train"]:
        raise DataError(
            f"The folder '{folder}' holds no data set. Expected sub-folders named after the "
            "classes with image files in them (below train/ and test/, or directly), or a data "
            "set that was saved with save_to_disk."
        )
    class_names = sorted({name for classes in files.values() for name in classes})
    return {split: _image_files(classes, class_names) for split, classes in files.items()}


def _saved(folder: Path) -> dict[str, datasets.Dataset]:
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            f"The saved data set '{folder}' cannot be read ({type(error).__name__}: {error}). "
            "Save it again with save_to_disk."
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return {"train": loaded}
    return {str(split): dataset for split, dataset in loaded.items()}


def _class_files(folder: Path) -> dict[str, list[str]]:
    """Return the image files of every class, sorted, so that every machine sees one order."""
    classes: dict[str, list[str]] = {}
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(p for p in class_folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if files:
            classes[class_folder.name] = [str(path.resolve()) for path in files]
    return classes


def _image_files(classes: dict[str, list[str]], class_names: list[str]) -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=class_names)}
    )
    columns: dict[str, list[object]] = {"image": [], "label": []}
    for name, files in classes.items():
        columns["image"] += files
        columns["label"] += [class_names.index(name)] * len(files)
    return datasets.Dataset.from_dict(columns, features=features)
