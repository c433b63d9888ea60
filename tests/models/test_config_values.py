"""Configs with more layers, wider ones or odder values than any model has."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedsplit.errors import FedSplitError, ModelError
from fedsplit.models import input_spec, load_model, load_split_model, resolve, save_model
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.models.directory import CONFIG, PROCESSOR, SINGLE
from tests.models.families import library_zoo

HOSTILE: list[Any] = [
    *(0, -1, 0.5, 10**9, 10**30, -(10**30), float("nan"), float("inf"), True, None),
    *("", "x", "os:system", [], [0], [[]], [-1, -1], [10**9] * 3, {}, {"a": 1}, {"0": {}}),
]


@pytest.fixture
def copied(vit_directory: Path, tmp_path: Path) -> Path:
    for file in vit_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit(directory: Path, **changes: object) -> None:
    path = directory / CONFIG
    config = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**config, **changes}))


TOO_MUCH: dict[str, object] = {
    "num_hidden_layers": 100_000,
    "hidden_size": 10**9,
    "intermediate_size": 2**21,
    "image_size": 10**9,
    "patch_size": 0,
    "num_attention_heads": 0,
    "num_channels": -3,
    "num_labels": 10**9,
    "depths": [500, 501],
    "layer_types": ["x"] * 1001,
    "id2label": {str(n): "x" for n in range(100_001)},
    "window_size": [7, 10**6],
    "num_register_tokens": -1,
    "fedsplit_image_size": float("nan"),
    "vision_config": {"depth": 10**5},
    "model_args": {"embed_dim": 10**9},
    "deepstack_visual_indexes": [0] * 10**5,
    "layer_norm_eps": -1.0,
    "rms_norm_eps": 1e30,
    "attention_probs_dropout_prob": 1.5,
    "drop_path_rate": -0.1,
    "initializer_range": float("nan"),
    "anything": [1.0, float("-inf")],
}


@pytest.mark.parametrize(("key", "value"), TOO_MUCH.items(), ids=TOO_MUCH)
def test_numbers_that_no_model_has_are_refused_at_once(
    copied: Path, key: str, value: object
) -> None:
    """Break it: leave `check_values` out of `find_model`; 100,000 layers then take minutes."""
    edit(copied, **{key: value})
    with less_memory_than(200 * 2**20):
        for use in (resolve, load_model, input_spec):
            began = time.thread_time()
            with pytest.raises(ModelError, match=r"config\.json' has .*Correct it") as caught:
                use(copied)
            assert time.thread_time() - began < 2
            assert len(str(caught.value)) < 500
        with pytest.raises(ModelError, match=r"config\.json' has"):
            load_split_model(copied, [1], pretrained=False)


@contextmanager
def less_memory_than(size: int) -> Iterator[None]:
    """Check that this process's memory does not grow by so many bytes at any time within.

    Linux forgets the peak of the tests before when it is told so; `getrusage` never does.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    yield
    assert _peak_bytes() - before < size


def _peak_bytes() -> int:
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def test_as_much_as_allowed_is_built_without_weights(copied: Path) -> None:
    """And what the checkpoint does not hold is refused before any memory is taken."""
    edit(copied, num_hidden_layers=300, hidden_size=2**15, intermediate_size=2**17)
    with less_memory_than(500 * 2**20):
        with pytest.raises(ModelError, match=r"4\d\d\d missing|do not fit|bytes of memory"):
            load_model(copied)
        with pytest.raises(ModelError, match=r"would take [\d,]{10,} bytes, and this machine has"):
            load_model(copied, pretrained=False)


def test_tables_of_positions_are_bounded_too(copied: Path) -> None:
    """Break it: make the buffers that no checkpoint holds, whatever their size.

    Swin numbers each pair of positions in a window: 128^4 numbers of 8 bytes.
    """
    sizes = {"image_size": 512, "window_size": 128, "embed_dim": 8, "depths": [2], "num_heads": [1]}
    (copied / CONFIG).write_text(json.dumps({"model_type": "swin", **sizes}))
    said = r"tables of positions of this model would take 4,294,967,296 bytes, more than"
    with less_memory_than(200 * 2**20), pytest.raises(ModelError, match=said):
        load_model(copied, num_labels=2)


def test_a_name_that_a_library_does_not_know_is_told_as_such(copied: Path) -> None:
    """Break it: take the text of a KeyError, which is the name alone."""
    edit(copied, hidden_act="evil")
    with pytest.raises(ModelError, match="cannot be loaded: its library knows no 'evil'"):
        load_model(copied)


def test_published_sizes_are_accepted() -> None:
    """The largest of each kind: ViT-22B, SigLIP's vocabulary, Qwen3-VL 235B, ImageNet-21k."""
    from fedsplit.models.config_values import check_values

    big = {"num_hidden_layers": 48, "hidden_size": 6144, "intermediate_size": 24576}
    text = {
        **{"num_hidden_layers": 94, "vocab_size": 262_144, "max_position_embeddings": 10_485_760},
        **{"pad_token_id": -1, "rope_theta": 10**8, "num_experts": 128, "head_dim": 128},
    }
    swin = {"depths": [2, 2, 18, 2], "pretrained_window_sizes": [0, 0, 0, 0], "window_size": 24}
    names = {"id2label": {str(n): "x" for n in range(21_843)}, "num_labels": 21_843}
    check_values({**big, **swin, **names, "text_config": text, "reg_tokens": 0}, Path("x"))
    for config in BUILTIN_MODELS.values():
        check_values(config, Path("x"))


CONFIGS = ("vit", "torchvision", "torchvision-swin", "timm", "timm-eva02")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_no_value_of_a_config_raises_anything_else(
    vit_directory: Path, tmp_path: Path, name: str
) -> None:
    """Break it: read a value outside `quietly` without looking at its kind."""
    if name == "vit":
        for file in vit_directory.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    else:
        save_model(library_zoo.make(name), library_zoo.SPEC, tmp_path)
    good = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / SINGLE).unlink()  # the last error there can be
    said: list[str] = []
    for number, key in enumerate([*good, "architecture", "pretrained_cfg", "vision_config"]):
        for value in HOSTILE[number % 3 :: 3]:
            (tmp_path / CONFIG).write_text(json.dumps({**good, key: value}))
            try:
                load_model(tmp_path, num_labels=2)
                input_spec(tmp_path)
            except FedSplitError as error:
                said.append(str(error))
    assert len(said) > 30
    assert max(map(len, said)) < 2500


@pytest.mark.parametrize("key", ["size", "crop_size", "resample", "rescale_factor", "image_mean"])
def test_no_value_of_a_processor_raises_anything_else(copied: Path, key: str) -> None:
    """Break it: leave `_check_numbers` out."""
    sizes = [{"height": value, "width": 8} for value in HOSTILE]
    for value in [*HOSTILE, *sizes, *({"shortest_edge": value} for value in HOSTILE)]:
        (copied / PROCESSOR).write_text(json.dumps({"do_center_crop": True, key: value}))
        try:
            found = input_spec(copied)
        except FedSplitError:
            continue
        assert max(found.height, found.width) <= 8192


def test_an_image_of_a_billion_pixels_is_refused(copied: Path) -> None:
    (copied / PROCESSOR).write_text(json.dumps({"size": {"height": 10**5, "width": 10**4}}))
    said = r"preprocessor_config\.json of .* has size\.height = 100000\. Give .* from 1 to 8192"
    with pytest.raises(ModelError, match=said):
        input_spec(copied)
