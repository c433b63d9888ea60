from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from fedsplit.errors import ModelError, RunError
from fedsplit.models import (
    InputSpec,
    input_spec,
    load_model,
    load_split_model,
    resolve,
    save_model,
)
from fedsplit.seeding import seeded_init

Weights = dict[str, torch.Tensor]


def edited(source: Path, target: Path, edit: Callable[[Weights], object]) -> str:
    """Copy a checkpoint with other weights."""
    weights = load_file(source / "model.safetensors")
    edit(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((source / "config.json").read_text())
    return str(target)


def test_random_weights_follow_the_seed_and_leave_the_global_state() -> None:
    def draw(seed: int) -> Weights:
        with seeded_init(seed, "model"):
            return load_model("vit-nano").state_dict()

    state = torch.random.get_rng_state()
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_skeletons_and_empty_parts_draw_nothing() -> None:
    state = torch.random.get_rng_state()
    resolve("vit-nano").skeleton(3)
    resolve("vit-nano").empty_part("bottom", [2], num_labels=3)
    resolve("vit-nano").empty_model(num_labels=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_skeleton_is_cached_and_on_the_meta_device() -> None:
    whole = resolve("vit-nano").skeleton(7)
    assert whole is resolve("vit-nano").skeleton(7)
    assert {tensor.device.type for tensor in whole.state_dict().values()} == {"meta"}
    assert whole.state_dict()["classifier.weight"].shape == (7, 64)


def test_a_config_written_anew_is_read_anew(vit_directory: Path, tmp_path: Path) -> None:
    name = edited(vit_directory, tmp_path, lambda _: None)
    assert len(resolve(name).skeleton().state_dict()) == 40
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    assert len(resolve(name).skeleton().state_dict()) == 24


def test_empty_bottom_takes_the_weights_of_a_bottom() -> None:
    bottom = load_split_model("vit-nano", [3], num_labels=4).bottom
    empty = resolve("vit-nano").empty_part("bottom", [3], num_labels=4)
    assert all(p.device.type == "cpu" and p.requires_grad for p in empty.parameters())
    empty.load_state_dict(bottom.state_dict())
    images = torch.ones(2, 1, 28, 28)
    assert torch.equal(empty(images), bottom(images))
    assert {
        p.dtype
        for p in resolve("vit-nano").empty_part("bottom", [3], dtype=torch.float16).parameters()
    } == {torch.float16}


def test_empty_model_takes_the_weights_of_a_model() -> None:
    model = load_model("vit-nano")
    empty = resolve("vit-nano").empty_model()
    empty.load_state_dict(model.state_dict())
    images = torch.ones(2, 1, 28, 28)
    assert torch.equal(empty.eval()(images).logits, model(images).logits)


def test_empty_bottoms_of_many_threads_are_independent() -> None:
    def build(value: int) -> list[torch.Tensor]:
        bottom = resolve("vit-nano").empty_part("bottom", [2])
        with torch.no_grad():
            for parameter in bottom.parameters():
                parameter.fill_(value)
        return [parameter.detach() for parameter in bottom.parameters()]

    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(build, range(32)))
    for value, tensors in enumerate(built):
        assert len(tensors) == 20
        assert all(bool((tensor == value).all()) for tensor in tensors)
    assert len({tensor.data_ptr() for tensors in built for tensor in tensors}) == 32 * 20


def test_a_local_checkpoint_is_read_exactly_and_quietly(
    vit_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.models.vit.modeling_vit import ViTForImageClassification

    split = load_split_model(str(vit_directory), [1])
    load_split_model(str(vit_directory), [1], num_labels=9)
    save_model(split.merge(), input_spec("vit-nano"), vit_directory.parent / "copy")
    assert capfd.readouterr() == ("", "")
    plain: Any = ViTForImageClassification
    expected = plain.from_pretrained(vit_directory).state_dict()
    merged = split.merge().state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_pretrained_false_draws_a_local_model_afresh(vit_directory: Path) -> None:
    with seeded_init(99, "other"):
        drawn = load_model(str(vit_directory), pretrained=False).state_dict()
    stored = load_model(str(vit_directory)).state_dict()
    name = "vit.layers.0.mlp.fc1.weight"
    assert drawn[name].shape == stored[name].shape
    assert not torch.equal(drawn[name], stored[name])


def test_another_number_of_labels_gets_a_fresh_seeded_classifier(vit_directory: Path) -> None:
    def draw(seed: int) -> Weights:
        with seeded_init(seed, "head"):
            return load_model(str(vit_directory), num_labels=9).state_dict()

    first, again, other = draw(1), draw(1), draw(2)
    stored = load_model(str(vit_directory)).state_dict()
    assert first["classifier.weight"].shape == (9, 32)
    assert torch.equal(first["classifier.weight"], again["classifier.weight"])
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    kept = [name for name in stored if not name.startswith("classifier.")]
    assert all(torch.equal(first[name], stored[name]) for name in kept)


def test_a_checkpoint_without_a_classifier_is_fine_tuned(
    vit_directory: Path, tmp_path: Path
) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig.from_pretrained(vit_directory)).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), num_labels=6).state_dict()["classifier.bias"].shape == (6,)
    with pytest.raises(ModelError, match=r"2 missing: classifier\.bias, classifier\.weight"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("num_labels", [None, 9])
def test_missing_and_unexpected_keys_are_refused(
    vit_directory: Path, tmp_path: Path, num_labels: int | None
) -> None:
    def edit(weights: Weights) -> None:
        weights["vit.strange.weight"] = weights.pop("vit.layernorm.weight")

    name = edited(vit_directory, tmp_path, edit)
    with pytest.raises(ModelError) as caught:
        load_model(name, num_labels=num_labels)
    assert "1 missing: vit.layernorm.weight" in str(caught.value)
    assert "1 unexpected: vit.strange.weight" in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_classifier_is_refused_unless_asked_afresh(
    vit_directory: Path, tmp_path: Path
) -> None:
    name = edited(vit_directory, tmp_path, lambda weights: weights.pop("classifier.weight"))
    with pytest.raises(ModelError, match=r"1 missing: classifier\.weight"):
        load_model(name, num_labels=5)


def test_weights_of_another_shape_are_refused(vit_directory: Path, tmp_path: Path) -> None:
    def edit(weights: Weights) -> None:
        weights["vit.layernorm.bias"] = torch.zeros(7)

    name = edited(vit_directory, tmp_path, edit)
    with pytest.raises(ModelError, match=r"vit\.layernorm\.bias \(7,\) instead of \(32,\)"):
        load_model(name)


def test_broken_files_are_refused(vit_directory: Path, tmp_path: Path) -> None:
    name = edited(vit_directory, tmp_path, lambda _: None)
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(ModelError, match=r"model\.safetensors' cannot be read: it has 22 bytes"):
        load_model(name)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds neither model\.safetensors nor .*index\.json"):
        load_model(name)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json' cannot be read as JSON.*Repair it"):
        load_model(name)
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_size": "wide"}')
    with pytest.raises(ModelError, match="hidden_size"):
        load_model(name)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"'bert'.*Known families: .*vit \(ViTFor"):
        load_model(name)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(name)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/no-where-at-all", "a/b/c", ""])
def test_a_missing_directory_is_named_at_once(name: str) -> None:
    with pytest.raises(ModelError, match=r"does not exist.*vit-nano"):
        load_split_model(name, [1])


@pytest.mark.parametrize(
    "environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}]
)
def test_an_unreachable_hub_is_told_within_seconds(
    environment: dict[str, str], tmp_path: Path
) -> None:
    # huggingface_hub reads its environment when it is imported, hence a process of its own. It
    # shows too that neither fedsplit.models nor a name that is not found imports transformers.
    code = (
        "import sys, time; from fedsplit.errors import ModelError; from fedsplit.models import *\n"
        "begin = time.monotonic()\n"
        "try: load_split_model('someone/some-vit', [1])\n"
        "except ModelError as error: print(error, '|', time.monotonic() - begin)\n"
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    message, _, seconds = done.stdout.rpartition("|")
    assert "'someone/some-vit'" in message
    assert "cannot be reached" in message
    assert "local directory" in message
    assert "vit-nano" in message
    assert float(seconds) < 8.0
    assert done.stderr == ""


def test_a_cached_hub_model_loads_without_the_hub(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--someone--some-vit"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    edited(vit_directory, snapshot, lambda _: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    loaded = load_model("someone/some-vit", cache_dir=tmp_path).state_dict()
    stored = load_model(str(vit_directory)).state_dict()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    with pytest.raises(ModelError, match=r"cannot be reached \(.*refused"):
        load_model("someone/other-vit", cache_dir=tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_asked_for_is_what_comes(vit_directory: Path, dtype: torch.dtype) -> None:
    for name in ("vit-nano", str(vit_directory)):
        split = load_split_model(name, [1], dtype=dtype)
        assert {p.dtype for part in split for p in part.parameters()} == {dtype}


def test_a_half_precision_checkpoint_comes_as_float32(vit_directory: Path, tmp_path: Path) -> None:
    save_model(
        load_model(str(vit_directory), dtype=torch.float16), input_spec("vit-nano"), tmp_path
    )
    assert {p.dtype for p in load_model(str(tmp_path)).parameters()} == {torch.float32}


def test_models_come_in_eval_mode(vit_directory: Path) -> None:
    for name in ("vit-nano", str(vit_directory)):
        assert not any(module.training for module in load_model(name).modules())


def test_parts_not_asked_for_have_no_storage() -> None:
    split = load_split_model("vit-nano", [1], parts=("bottom",))
    assert {p.device.type for p in split.bottom.parameters()} == {"cpu"}
    for part in (split.trunk, split.top):
        assert {p.device.type for p in part.parameters()} == {"meta"}
    with pytest.raises(ModelError, match="hold no weights"):
        split.merge()
    with pytest.raises(ModelError, match=r"stages \[1, 5\) holds no weights.*parts=\("):
        split.trunk(split.bottom(torch.zeros(1, 1, 28, 28)))


def test_a_directory_may_be_a_path(vit_directory: Path) -> None:
    """Break it: treat the name as text before it is."""
    by_path, by_text = (
        load_model(name).state_dict() for name in (vit_directory, f"{vit_directory}")
    )
    assert all(torch.equal(by_path[name], tensor) for name, tensor in by_text.items())
    assert load_split_model(vit_directory, [1]).bottom.state_dict().keys() <= by_text.keys()
    assert input_spec(vit_directory) == input_spec(str(vit_directory))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ModelError, match=r"parts is \('middle',\)"):
        load_split_model("vit-nano", [1], parts=("middle",))
    with pytest.raises(ModelError, match="parts is 'bottom'"):
        load_split_model("vit-nano", [1], parts="bottom")
    with pytest.raises(ModelError, match="device 'nowhere'"):
        load_model("vit-nano", device="nowhere")
    with pytest.raises(ModelError, match=r"torch\.int32: .*gradients\. Use .* torch\.bfloat16"):
        load_model("vit-nano", dtype=torch.int32)
    with pytest.raises(ModelError, match="num_labels is 0"):
        load_model("vit-nano", num_labels=0)
    with pytest.raises(ModelError, match=r"\[9\]"):
        resolve("vit-nano").empty_part("bottom", [9])


def test_a_wrong_cut_is_told_before_weights_are_read(vit_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((vit_directory / "config.json").read_text())
    with pytest.raises(ModelError, match=r"\[4\].*1 <= a <= b <= 3"):
        load_split_model(str(tmp_path), [4])


def test_input_spec_of_models(vit_directory: Path, tmp_path: Path) -> None:
    assert input_spec("vit-nano") == InputSpec(1, 28, 28, (0.5,), (0.5,))
    assert input_spec(str(vit_directory)) == InputSpec(3, 16, 16, (0.5,) * 3, (0.5,) * 3)
    spec = InputSpec(3, 16, 16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_model(load_model(str(vit_directory)), spec, tmp_path)
    assert input_spec(str(tmp_path)) == spec
    processor = tmp_path / "preprocessor_config.json"
    processor.write_text('{"do_normalize": false, "image_mean": [9, 9, 9]}')
    assert input_spec(str(tmp_path)) == InputSpec(3, 16, 16, (0.0,) * 3, (1.0,) * 3)
    processor.write_text('{"image_mean": [0.1, 0.2], "image_std": [1, 1, 1]}')
    with pytest.raises(ModelError, match=r"image_mean \[0\.1, 0\.2\].*3 channels"):
        input_spec(str(tmp_path))
    processor.write_text('{"image_std": [1, 0, 1]}')
    with pytest.raises(ModelError, match="image_std from 1e-06"):
        input_spec(str(tmp_path))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e300", "1" + "0" * 400])
@pytest.mark.parametrize("key", ["image_mean", "image_std"])
def test_image_statistics_must_be_finite(
    vit_directory: Path, tmp_path: Path, key: str, text: str
) -> None:
    name = edited(vit_directory, tmp_path, lambda _: None)
    (tmp_path / "preprocessor_config.json").write_text(f'{{"{key}": [0.5, {text}, 0.5]}}')
    with pytest.raises(ModelError, match=rf"{key} \[0\.5.*3 finite numbers"):
        input_spec(name)


@pytest.mark.parametrize("channels", [2, 4])
def test_images_are_grey_or_rgb(vit_directory: Path, tmp_path: Path, channels: int) -> None:
    config = json.loads((vit_directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_channels": channels}))
    with pytest.raises(ModelError, match=rf"takes images of {channels} channels.*1 channel.*or 3"):
        input_spec(str(tmp_path))


def test_saving_where_it_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*model'.*Not a directory"):
        save_model(load_model("vit-nano"), input_spec("vit-nano"), tmp_path / "file" / "model")


def test_an_empty_bottom_is_cheap_once_cached() -> None:
    resolve("vit-nano").empty_part("bottom", [1])
    fastest = min(
        _seconds(lambda: resolve("vit-nano").empty_part("bottom", [1])) for _ in range(20)
    )
    assert fastest < 0.01


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def test_an_rgb_checkpoint_says_how_to_take_grey_images(
    vit_directory: Path, tmp_path: Path
) -> None:
    """Break it: leave it at the two shapes."""
    name = edited(vit_directory, tmp_path, lambda _: None)
    config = json.loads((vit_directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_channels": 1}))
    with pytest.raises(
        ModelError, match=r"3, 8, 8\) instead of .*1, 8, 8\).* grey images are made"
    ):
        load_model(name, num_labels=4)
