"""ViTs of torchvision and timm, saved and loaded by name or directory."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedsplit import simulate
from fedsplit.errors import ModelError
from fedsplit.models import (
    input_spec,
    load_model,
    load_split_model,
    resolve,
    save_model,
    split_model,
    stage_names,
)
from fedsplit.models.hub import Source
from fedsplit.models.stored import Checkpoint
from fedsplit.seeding import seeded_init
from tests.conftest import TINY
from tests.models.families import library_zoo
from tests.models.families.library_zoo import SPEC, make
from tests.models.families.zoo import batch

pytestmark = pytest.mark.usefixtures("undrawn")

LIBRARIES = ("torchvision", "timm")


def saved(name: str, directory: Path, **changes: object) -> tuple[nn.Module, str]:
    model = make(name, **changes)
    save_model(model, SPEC, directory)
    return model, str(directory)


@pytest.mark.parametrize("name", library_zoo.LIBRARIES)
def test_what_is_saved_loads_again_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Break it: leave an argument out of the config."""
    model, directory = saved(name, tmp_path)
    split = load_split_model(directory, [2])
    merged = split.merge()
    assert type(merged) is type(model)
    assert repr(merged) == repr(model)
    expected = model.state_dict()
    assert list(merged.state_dict()) == list(expected)
    assert all(torch.equal(t, expected[key]) for key, t in merged.state_dict().items())
    images, _ = batch(model)
    assert torch.equal(merged(images), model(images))
    assert input_spec(directory) == SPEC
    assert resolve(directory).dropout_probabilities() == {}
    make(name).load_state_dict(load_file(tmp_path / "model.safetensors"))  # in the library alone


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_bottom_alone_is_read_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: read every tensor."""
    model, directory = saved(name, tmp_path)
    keys: set[str] = set()
    read = Checkpoint.read

    def recorded(checkpoint: Checkpoint, key: str) -> torch.Tensor:
        keys.add(key)
        return read(checkpoint, key)

    monkeypatch.setattr(Checkpoint, "read", recorded)
    split = load_split_model(directory, [1], parts=["bottom"])
    assert keys == set(split.bottom.state_dict())
    assert keys & {"class_token", "cls_token"}
    images, _ = batch(model)
    assert torch.equal(split.bottom(images), split_model(model, [1]).bottom(images))
    assert {tensor.device.type for tensor in split.top.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("name", ["torchvision", "torchvision-representation", "timm"])
def test_another_number_of_labels_gets_the_librarys_own_fresh_head(
    name: str, tmp_path: Path
) -> None:
    """Break it: leave the head as it was allocated, or draw all weights again."""
    model, directory = saved(name, tmp_path)

    def draw(seed: int) -> dict[str, torch.Tensor]:
        with seeded_init(seed, "head"):
            return load_model(directory, num_labels=7).state_dict()

    first, again, other = draw(1), draw(1), draw(2)
    heads = {key for key in first if key.startswith(("heads.head.", "head."))}
    kept = model.state_dict().keys() - heads
    assert all(torch.equal(first[key], model.state_dict()[key]) for key in kept)
    assert all(torch.equal(first[key], again[key]) for key in first)
    (weight,) = (first[key] for key in heads if key.endswith("weight"))
    (same,) = (torch.equal(weight, other[key]) for key in heads if key.endswith("weight"))
    assert weight.shape[0] == 7
    if name == "timm":
        assert not same
        assert 0.01 < weight.std() < 0.04  # 0.02, cut at two deviations or more
    else:
        assert same  # torchvision begins with zeros
        assert not weight.any()


def test_a_fine_tuning_run_from_a_saved_directory(tmp_path: Path) -> None:
    """Break it: expect `.config` or `.logits` of a model anywhere in a run."""
    model, directory = saved("torchvision", tmp_path / "model", dropout=0.1)
    changes = {"num-server-rounds": 1, "local-epochs": 1, "data.max-train-samples": 80}
    result = simulate(
        {**TINY, **changes, "output-dir": str(tmp_path / "runs"), "model.name": directory}
    )
    trained = result.model.merge()
    assert type(trained) is type(model)
    before, after = model.state_dict(), trained.state_dict()
    assert after["heads.head.weight"].shape == (10, 16)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"class_token", "encoder.pos_embedding", "encoder.ln.weight"} <= moved
    again = load_model(str(result.run_dir / "model")).state_dict()
    assert all(torch.equal(again[key], after[key]) for key in after)


@pytest.mark.parametrize(
    ("name", "blocks", "spec"),
    [
        ("torchvision:vit_b_16", 12, (224, 256, 2, 0.485)),
        ("torchvision:vit_h_14", 32, (518, 518, 3, 0.485)),
        ("timm:vit_small_patch16_224", 12, (224, 248, 3, 0.5)),
        ("timm:vit_tiny_patch16_224.augreg_in21k", 12, (224, 248, 3, 0.5)),
    ],
)
def test_a_name_is_enough_without_weights(
    name: str, blocks: int, spec: tuple[int, int, int, float]
) -> None:
    """Break it: look for the weights, or take 224 for every model."""
    pytest.importorskip(name.partition(":")[0])
    whole = resolve(name).skeleton(5)
    assert len(stage_names(whole)) == blocks + 2
    assert {tensor.device.type for tensor in whole.state_dict().values()} == {"meta"}
    images = input_spec(name)
    size, resize, resample, mean = spec
    assert (images.height, images.width, images.resize) == (size, size, resize)
    assert (images.resample, images.mean[0]) == (resample, mean)
    assert resolve(name).dropout_probabilities() == {}


def test_a_name_without_pretrained_weights_is_drawn() -> None:
    """Break it: read weights whenever the name is not built in."""
    pytest.importorskip("timm")
    with seeded_init(1, "model"):
        split = load_split_model(
            "timm:vit_tiny_patch16_224", [1], pretrained=False, num_labels=3, parts=["bottom"]
        )
    assert resolve("timm:vit_tiny_patch16_224").empty_part("bottom", [1]).state_dict().keys() == (
        split.bottom.state_dict().keys()
    )
    assert split.bottom(torch.zeros(1, 3, 224, 224)).shape == (1, 197, 192)


@pytest.mark.parametrize("name", ["torchvision:vit_b_32", "timm:vit_tiny_patch16_224"])
def test_weights_that_cannot_be_fetched_are_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: let the library try for itself, or tell no way out."""
    pytest.importorskip(name.partition(":")[0])
    import fedsplit.models.libraries.torchvision as ours
    from fedsplit.models import hub

    def refuse(*_: object, **__: object) -> object:
        raise OSError("refused")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(ours, "urlopen", refuse)
    monkeypatch.setattr(hub, "_hub_reachable", lambda: (False, "refused"))
    with pytest.raises(ModelError) as caught:
        load_split_model(name, [1], cache_dir=tmp_path)
    message = str(caught.value)
    assert name in message
    assert "refused" in message
    assert "model.pretrained to false" in message
    assert "local directory" in message
    assert "\n" not in message


def test_torchvisions_own_weights_are_read_by_their_older_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: leave out the renaming; the published files have linear_1 and linear_2."""
    import fedsplit.models.libraries.torchvision as ours

    model = make("torchvision")
    older = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for key, tensor in model.state_dict().items()
    }
    assert older.keys() != model.state_dict().keys()
    (tmp_path / "checkpoints").mkdir()
    torch.save(older, tmp_path / "checkpoints" / "small.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = Source("torchvision:small", {"model_type": "torchvision-vit"}, None)
    state = ours._download(source, "http://127.0.0.1:9/small.pth")
    name_of = ours.LIBRARY.names(model)
    renamed = {name_of(key): tensor for key, tensor in state.items()}
    assert renamed.keys() == model.state_dict().keys()
    assert all(torch.equal(renamed[key], t) for key, t in model.state_dict().items())


def test_timms_own_weights_come_from_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: look for the architecture's name instead of its hub id."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    from fedsplit.models import hub

    with seeded_init(1, "published"):
        theirs = timm.create_model("vit_tiny_patch16_224").eval()
    hub_id = theirs.pretrained_cfg["hf_hub_id"].replace("/", "--")
    snapshot = tmp_path / f"models--{hub_id}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    save_file(theirs.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(hub, "_hub_reachable", lambda: (False, "refused"))
    bottom = load_split_model(
        "timm:vit_tiny_patch16_224", [1], cache_dir=tmp_path, num_labels=3, parts=["bottom"]
    ).bottom
    expected = theirs.state_dict()
    assert all(torch.equal(t, expected[key]) for key, t in bottom.state_dict().items())


@pytest.mark.parametrize("name", ["timm", "timm-registers", "timm-map"])
def test_timm_itself_loads_what_is_saved(name: str, tmp_path: Path) -> None:
    """Break it: write a config.json of another layout."""
    timm = pytest.importorskip("timm")
    model, directory = saved(name, tmp_path)
    again = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    images, _ = batch(model)
    assert torch.equal(again(images), model(images))
    # A directory that timm wrote has no model_type.
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_model(directory)(images), model(images))


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_the_arguments_do_not_say_is_not_saved(name: str, tmp_path: Path) -> None:
    """Break it: save it all the same; it would load as another model."""
    activation = {"norm_layer": nn.RMSNorm} if name == "torchvision" else {"act_layer": nn.SiLU}
    with pytest.raises(ModelError, match=r"do not describe.*state_dict"):
        save_model(make(name, **activation), SPEC, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:vit_b_17", r"no vision transformer of torchvision.*vit_b_16"),
        ("torchvision:resnet18", r"no vision transformer of torchvision"),
        ("timm:vit_b_17", r"timm has no model 'vit_b_17'"),
        ("timm:resnet18", r"is a ResNet of timm.*vit_small_patch16_224"),
    ],
)
def test_names_of_other_models_are_refused(name: str, message: str) -> None:
    """Break it: build whatever there is."""
    pytest.importorskip(name.partition(":")[0])
    with pytest.raises(ModelError, match=message):
        resolve(name).skeleton()


def test_without_timm_its_names_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: import timm where the families are listed."""
    import_module = importlib.import_module

    def without_timm(name: str, package: str | None = None) -> object:
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError(f"No module named '{name}'")
        return import_module(name, package)

    monkeypatch.setattr(importlib, "import_module", without_timm)
    with pytest.raises(ModelError, match=r"the library 'timm'.*pip install -U timm"):
        # No other test names this model, whose skeleton would be kept.
        resolve("timm:vit_tiny_patch16_384").skeleton()


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("torchvision", {"dropout": 0.1}, {"dropout": 0.1, "mlp": 0.1}),
        ("torchvision", {"attention_dropout": 0.2}, {"self_attention": 0.2}),
        ("timm", {"drop_path_rate": 0.1, "drop_rate": 0.3}, {"drop_path": 0.1, "head_drop": 0.3}),
    ],
)
def test_dropout_is_found_in_the_modules(
    name: str, changes: dict[str, object], found: dict[str, float], tmp_path: Path
) -> None:
    """Break it: look for a config, or forget attention's dropout, which is no module."""
    _, directory = saved(name, tmp_path, **changes)
    told = resolve(directory).dropout_probabilities()
    assert {key: told[key] for key in told if not key.startswith("drop_path")} == {
        key: value for key, value in found.items() if key != "drop_path"
    }
    paths = [value for key, value in told.items() if key.startswith("drop_path")]
    # Both of a block, in float32 as timm computes them.
    assert paths == ([pytest.approx(0.1)] * 2 if "drop_path" in found else [])
