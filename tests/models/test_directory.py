"""Which files of a model's directory are read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedsplit.errors import ModelError
from fedsplit.models import input_spec, load_model
from fedsplit.models.directory import (
    CONFIG,
    INDEX,
    MAX_BYTES,
    PROCESSOR,
    SINGLE,
    WHOLE_PROCESSOR,
)


@pytest.fixture
def copied(vit_directory: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for file in vit_directory.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


@pytest.fixture
def sharded(copied: Path) -> Path:
    """The model in two files."""
    tensors = load_file(copied / SINGLE)
    names = sorted(tensors)
    half = len(names) // 2
    parts = {"one.safetensors": names[:half], "two.safetensors": names[half:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, copied / file)
    (copied / SINGLE).unlink()
    write_index(copied, {key: file for file, keys in parts.items() for key in keys})
    return copied


def write_index(directory: Path, names: object) -> None:
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def index_of(directory: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((directory / INDEX).read_text())["weight_map"]
    return found


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["..", "absolute", "folder", ".", "", "NUL", "other", "drive"])
def test_an_index_names_files_of_its_directory_only(sharded: Path, kind: str, inside: bool) -> None:
    """Break it: join the directory and the name."""
    names = index_of(sharded)
    key = next(key for key, file in names.items() if file == "one.safetensors")
    target = sharded / "one.safetensors"
    if not inside:
        (sharded.parent / target.name).write_bytes(target.read_bytes())
        target = sharded.parent / target.name
    (sharded / "folder").mkdir()
    odd = {
        "..": f"../{'model/' * inside}one.safetensors",
        "absolute": str(target),
        "folder": "folder/../one.safetensors",
        "NUL": "one\0.safetensors",
        "other": "weights.bin",
        "drive": "C:one.safetensors",
    }.get(kind, kind)
    write_index(sharded, {**names, key: odd})
    with pytest.raises(ModelError, match=r"index\.json' names .* no safetensors file in its own"):
        load_model(sharded)


@pytest.mark.parametrize("file", [CONFIG, PROCESSOR, INDEX, "one.safetensors"])
def test_links_that_lead_out_are_followed_for_those_who_trust_only(
    sharded: Path, file: str
) -> None:
    """Break it: take whatever `is_file` says is there."""
    (sharded / PROCESSOR).write_text("{}")
    outside = sharded.parent / f"elsewhere-{file}"
    (sharded / file).rename(outside)
    (sharded / file).symlink_to(outside)
    with pytest.raises(ModelError, match=r"is a link to '.*outside its directory.*model\.trust"):
        load_model(sharded)
    load_model(sharded, trust=True)
    (sharded / file).unlink()
    outside.rename(sharded / "within.safetensors")
    (sharded / file).symlink_to("within.safetensors")
    load_model(sharded)


@pytest.mark.parametrize("blobs", ["real", "a link"])
def test_a_snapshot_of_the_hubs_cache_has_its_contents_in_blobs(copied: Path, blobs: str) -> None:
    """Break it: refuse every link, or take a folder of blobs that is a link itself."""
    repository = copied.parent / "models--someone--vit"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    stored = repository / "blobs" if blobs == "real" else copied.parent / "private"
    stored.mkdir()
    if blobs != "real":
        (repository / "blobs").symlink_to(stored)
    for number, file in enumerate(copied.iterdir()):
        file.rename(stored / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    if blobs == "real":
        assert load_model(snapshot) is not None
    else:
        with pytest.raises(ModelError, match="outside its directory"):
            load_model(snapshot)


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "nothing"])
def test_what_is_no_regular_file_is_not_opened(sharded: Path, kind: str) -> None:
    """Break it: open it; a pipe waits for ever."""
    path = sharded / "two.safetensors"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(ModelError, match=r"two\.safetensors' is no regular file"):
        load_model(sharded)


@pytest.mark.parametrize("change", ["missing", "extra", "in two", "wrong file"])
def test_files_that_differ_from_the_index_are_told(sharded: Path, change: str) -> None:
    """Break it: read the tensors that the index names, and look at no others."""
    path, names = sharded / "one.safetensors", index_of(sharded)
    tensors = load_file(path)
    first = sorted(tensors)[0]
    if change == "missing":
        del tensors[first]
        said = rf"1 tensors are missing \({first}\), and 0"
    elif change == "extra":
        tensors["surprise"] = torch.ones(1)
        said = r"0 tensors are missing \(\), and 1 .*\(surprise\)"
    elif change == "in two":
        twice = next(key for key, file in names.items() if file == "two.safetensors")
        tensors[twice] = torch.ones(1)
        said = rf"and 1 are in no place or in another file \({twice}\)"
    else:
        write_index(sharded, {**names, first: "two.safetensors"})
        said = rf"(1 tensors are missing|and 1 are in no place).*{first}"
    save_file(tensors, path)
    with pytest.raises(ModelError, match=said):
        load_model(sharded)


@pytest.mark.parametrize("names", [None, [], {"a": 1}, {"a": ["b"]}, "x"])
def test_an_index_of_another_kind_is_refused(sharded: Path, names: object) -> None:
    write_index(sharded, names)
    with pytest.raises(ModelError, match="has no weight_map of names"):
        load_model(sharded)


def test_an_index_of_very_many_files_is_refused(sharded: Path) -> None:
    write_index(sharded, {f"t{n}": f"{n}.safetensors" for n in range(1001)})
    with pytest.raises(ModelError, match="names 1001 files, more than 1000"):
        load_model(sharded)


TEXTS = {
    "deep": ("[" * 100_000, "nested more than 32 deep"),
    "deep object": ('{"model_type":' * 60_000, "nested more than 32 deep"),
    "twice": ('{"model_type": "vit", "model_type": "vit"}', "'model_type' is there twice"),
    "long": (" " * (MAX_BYTES + 1), f"is longer than {MAX_BYTES} bytes"),
    "a list": ("[1]", "must hold a JSON object"),
    "a long number": ("1" * 100_000, "cannot be read as JSON"),
    "empty": ("", "cannot be read as JSON"),
}


@pytest.mark.parametrize("file", [CONFIG, PROCESSOR, INDEX])
@pytest.mark.parametrize(("text", "said"), TEXTS.values(), ids=TEXTS)
def test_json_that_is_too_deep_or_too_long_is_refused(
    sharded: Path, file: str, text: str, said: str
) -> None:
    """Break it: let json read it, and its RecursionError through."""
    (sharded / file).write_text(text)
    began = time.thread_time()
    with pytest.raises(ModelError, match=said):
        load_model(sharded)
    assert time.thread_time() - began < 2


def test_a_checkpoint_with_a_name_twice_is_refused(copied: Path) -> None:
    """Break it: let safetensors take the last of two."""
    data = (copied / SINGLE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].decode().rstrip()
    entries = json.loads(header)
    name = sorted(set(entries) - {"__metadata__"})[0]
    twice = f"{header[:-1]},{json.dumps(name)}:{json.dumps(entries[name])}}}"
    new = len(twice).to_bytes(8, "little") + twice.encode() + data[8 + size :]
    (copied / SINGLE).write_bytes(new)
    with pytest.raises(
        ModelError, match=f"weights in .* cannot be read: the key '{name}' is there"
    ):
        load_model(copied)


@pytest.mark.parametrize("file", [PROCESSOR, INDEX])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a dangling link"])
def test_a_file_that_cannot_be_read_is_not_done_without(copied: Path, file: str, kind: str) -> None:
    """Break it: take a file that `is_file` does not see for none, and normalise by 0.5."""
    path = copied / file
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(copied / "gone")
    with pytest.raises(ModelError, match="is no regular file"):
        load_model(copied)


def test_the_processing_of_images_may_be_within_that_of_texts_and_images(copied: Path) -> None:
    """Break it: know preprocessor_config.json only; transformers 5 saves a CLIPProcessor so."""
    (copied / PROCESSOR).unlink(missing_ok=True)
    whole = {"processor_class": "CLIPProcessor", "image_processor": {"image_mean": [0.1, 0.2, 0.3]}}
    (copied / WHOLE_PROCESSOR).write_text(json.dumps(whole))
    assert input_spec(copied).mean == (0.1, 0.2, 0.3)
    (copied / PROCESSOR).write_text(json.dumps({"image_mean": 0.4}))
    assert input_spec(copied).mean == (0.4, 0.4, 0.4)
    (copied / PROCESSOR).unlink()
    (copied / WHOLE_PROCESSOR).write_text(json.dumps({"image_processor": {"auto_map": {"a": "b"}}}))
    with pytest.raises(ModelError, match=r"processor_config\.json' names code: auto_map"):
        input_spec(copied)
