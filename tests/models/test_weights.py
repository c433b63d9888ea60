"""Only what is asked for is read, from one file or from shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedsplit.errors import ModelError
from fedsplit.models import load_model, load_split_model, resolve, split_model
from fedsplit.models.directory import INDEX, SINGLE
from fedsplit.models.libraries.transformers import LIBRARY
from fedsplit.models.storage import kept_buffers, with_storage, without_storage
from fedsplit.models.stored import Checkpoint
from fedsplit.seeding import seeded_init


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of 3 blocks in a shard for about every block, written by transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    values: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 3,
        "num_labels": 5,
    }
    config = ViTConfig(**values)
    directory = tmp_path_factory.mktemp("shards")
    with seeded_init(7, "shards"):
        ViTForImageClassification(config).save_pretrained(directory, max_shard_size="36KB")
    assert len(list(directory.glob("*.safetensors"))) >= 3
    return directory


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys whose files are opened to be looked at, in order."""
    keys: list[str] = []
    file_of = Checkpoint.file_of

    def recorded(checkpoint: Checkpoint, key: str) -> object:
        keys.append(key)
        return file_of(checkpoint, key)

    monkeypatch.setattr(Checkpoint, "file_of", recorded)
    return keys


@pytest.mark.parametrize("which", ["bottom", "trunk", "top"])
def test_a_part_alone_is_read_alone_and_exactly(shards: Path, read: list[str], which: str) -> None:
    """Break it: read every tensor of the checkpoint."""
    whole = load_split_model(str(shards), [2])
    del read[:]
    parts = load_split_model(str(shards), [2], parts=[which])
    name_of = LIBRARY.names(resolve(shards).skeleton())  # transformers stores blocks by older names
    assert {name_of(key) for key in read} == set(getattr(whole, which).state_dict())
    for name, part in parts._asdict().items():
        tensors = part.state_dict()
        if name == which:
            expected = getattr(whole, name).state_dict()
            assert all(torch.equal(tensors[key], expected[key]) for key in expected)
        else:
            assert {tensor.device.type for tensor in tensors.values()} == {"meta"}


def test_shards_that_no_wanted_weight_is_in_need_not_be_there(shards: Path, tmp_path: Path) -> None:
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    bottom = load_split_model(str(tmp_path), [1], parts=["bottom"]).bottom
    needed = {index[key] for key in bottom.state_dict()}
    for name in set(index.values()) - needed:
        (tmp_path / name).unlink()
    again = load_split_model(str(tmp_path), [1], parts=["bottom"]).bottom
    assert torch.equal(again(torch.ones(1, 3, 8, 8)), bottom(torch.ones(1, 3, 8, 8)))
    with pytest.raises(ModelError, match=r"safetensors' is no regular file"):
        load_model(str(tmp_path))


def test_shards_hold_what_transformers_reads_from_them(shards: Path) -> None:
    from transformers import ViTForImageClassification

    theirs: Any = ViTForImageClassification.from_pretrained(shards)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_model(str(shards))(images).logits, theirs(images).logits)


def test_a_missing_key_is_told_although_its_part_is_not_read(shards: Path, tmp_path: Path) -> None:
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index = json.loads((tmp_path / INDEX).read_text())
    del index["weight_map"]["classifier.bias"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"1 are in no place .*\(classifier\.bias\)"):
        load_split_model(str(tmp_path), [1], parts=["bottom"])


@pytest.fixture
def clip_directory(tmp_path: Path) -> Path:
    """A model with a buffer that no checkpoint holds: CLIP's position ids."""
    from transformers import CLIPConfig, CLIPForImageClassification

    vision: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    with seeded_init(7, "clip"):
        CLIPForImageClassification(
            CLIPConfig(vision_config=vision, text_config={"num_hidden_layers": 1})
        ).save_pretrained(tmp_path)
    return tmp_path


def test_buffers_that_are_no_weights_are_there_without_weights(clip_directory: Path) -> None:
    """Break it: leave them on the meta device, or give them empty storage."""
    from transformers import AutoModelForImageClassification

    theirs = AutoModelForImageClassification.from_pretrained(clip_directory)
    empty = resolve(clip_directory).skeleton()
    (ids,) = kept_buffers(empty).values()
    assert ids.flatten().tolist() == list(range(5))
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    state = torch.random.get_rng_state()
    loaded = load_model(str(clip_directory))
    assert torch.equal(torch.random.get_rng_state(), state)
    images = torch.ones(1, 3, 8, 8)
    assert torch.equal(loaded(images).logits, theirs.eval()(images).logits)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight


def test_what_is_tied_stays_tied_without_storage_and_with_it() -> None:
    model = Tied()
    without_storage(model)
    assert model.first.weight is model.last.weight
    assert model.first.weight.is_meta
    with_storage(model, torch.bfloat16)
    assert model.first.weight is model.last.weight
    assert isinstance(model.first.weight, nn.Parameter)
    assert model.first.weight.dtype == torch.bfloat16


def test_an_empty_part_keeps_its_buffers(clip_directory: Path) -> None:
    """Break it: give everything in the part uninitialised storage."""
    part = resolve(clip_directory).empty_part("bottom", [1], dtype=torch.float16)
    whole = split_model(load_model(str(clip_directory)), [1]).bottom
    assert {name: t.shape for name, t in part.state_dict().items()} == {
        name: t.shape for name, t in whole.state_dict().items()
    }
    assert {p.dtype for p in part.parameters()} == {torch.float16}
    (ids,) = kept_buffers(part).values()
    assert ids.flatten().tolist() == list(range(5))
    assert load_file(clip_directory / "model.safetensors").keys() >= part.state_dict().keys()


def _changed(shards: Path, folder: Path, key: str, tensor: Tensor) -> Path:
    """Copy a checkpoint with one more or another tensor, in one file."""
    folder.mkdir()
    tensors = {k: t for file in shards.glob("*.safetensors") for k, t in load_file(file).items()}
    save_file({**tensors, key: tensor}, folder / SINGLE, metadata={"format": "pt"})
    (folder / "config.json").write_bytes((shards / "config.json").read_bytes())
    return folder


HEAD = "classifier.weight"


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(shards: Path, tmp_path: Path, odd: float) -> None:
    """Break it: read them; every prediction is then NaN."""
    bad = torch.zeros(5, 32)
    bad[1, 2] = odd
    folder = _changed(shards, tmp_path / "model", HEAD, bad)
    with pytest.raises(ModelError, match=f"weight {HEAD} has a NaN or an infinite number"):
        load_model(folder)
    assert load_split_model(folder, [1], parts=["bottom"]).bottom is not None  # nobody reads it


def test_weights_that_a_dtype_cannot_hold_are_refused(shards: Path, tmp_path: Path) -> None:
    folder = _changed(shards, tmp_path / "model", HEAD, torch.full((5, 32), 1e6))
    assert load_model(folder, dtype=torch.bfloat16) is not None
    with pytest.raises(ModelError, match=r"as torch\.float16.*or a dtype of a larger range"):
        load_model(folder, dtype=torch.float16)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64]
)
def test_weights_that_are_no_floating_point_numbers_are_refused(
    shards: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Break it: take quantised weights as numbers; what scales them is elsewhere."""
    folder = _changed(shards, tmp_path / "model", HEAD, torch.ones(5, 32).to(dtype))
    with pytest.raises(ModelError, match=f"1 of no floating-point numbers.*: {HEAD}"):
        load_model(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floating_point_numbers_are_read(
    shards: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = _changed(shards, tmp_path / "model", HEAD, torch.ones(5, 32).to(dtype))
    assert torch.equal(load_model(folder).state_dict()[HEAD], torch.ones(5, 32))


def test_two_names_of_one_weight_are_refused(shards: Path, tmp_path: Path) -> None:
    """Break it: keep the last one; transformers may keep the other."""
    key = "embeddings.cls_token"  # as it is called where a tower was saved alone
    folder = _changed(shards, tmp_path / "model", key, torch.ones(1, 1, 32))
    with pytest.raises(ModelError, match=r"1 of a weight that is there twice: .*cls_token"):
        load_model(folder)
