"""A model directory from a stranger runs no code and reads no other file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsplit.config import Config
from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models import input_spec, load_model, resolve, save_model
from fedsplit.models.directory import CONFIG, PROCESSOR
from fedsplit.models.libraries.transformers import LIBRARY
from fedsplit.predict import _is_trusted
from tests.models.families import library_zoo

SPEC = InputSpec(1, 28, 28, (0.5,), (0.5,))
MODULE = "a_strangers_module"


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that can be imported; the file is there if any of its code has run."""
    mark = tmp_path / "sprung"
    folder = tmp_path / "importable"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from tests.models.own import make as run\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield mark
    sys.modules.pop(MODULE, None)


def write(directory: Path, **config: object) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config))
    return directory


def edit(directory: Path, **changes: object) -> None:
    config = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps({**config, **changes}))


def copy_of(directory: Path, target: Path) -> Path:
    target.mkdir()
    for file in directory.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("kind", ["custom", "vit"])
def test_a_function_in_a_config_is_not_called(sprung: Path, tmp_path: Path, kind: str) -> None:
    """Break it: leave `check_code` out of `find_model`."""
    name = f"{MODULE}:run"
    directory = write(tmp_path / "model", model_type=kind, factory=name)
    for use in (resolve, load_model, input_spec):
        with pytest.raises(ModelError, match=rf"config\.json' names code: factory = '{name}'"):
            use(str(directory))
    with pytest.raises(ModelError, match=r"model\.trust = true"):
        resolve(directory)
    assert not sprung.exists()
    assert MODULE not in sys.modules


def test_the_user_may_name_the_function_or_trust_the_directory(
    sprung: Path, tmp_path: Path
) -> None:
    made = load_model(f"{MODULE}:run")
    assert sprung.exists()
    save_model(made, SPEC, tmp_path / "model")
    again = load_model(tmp_path / "model", trust=True)
    assert all(torch.equal(t, made.state_dict()[n]) for n, t in again.state_dict().items())
    with pytest.raises(ModelError, match="names code"):  # also after it was resolved with trust
        load_model(tmp_path / "model")


def test_predict_calls_what_the_runs_own_config_names_and_nothing_else(tmp_path: Path) -> None:
    """Break it: trust every run directory."""
    name = "tests.models.own:make"
    directory = write(tmp_path / "model", model_type="custom", factory=name)
    assert _is_trusted(Config.load({"model.name": name}), directory)
    assert not _is_trusted(Config.load({"model.name": "tests.models.own:other"}), directory)
    assert not _is_trusted(Config.load({"model.name": "vit-nano"}), directory)
    assert _is_trusted(Config.load({"model.name": "x", "model.trust": True}), directory)


CODE: dict[str, dict[str, Any]] = {
    "auto_map": {"auto_map": {"AutoModelForImageClassification": f"modeling--{MODULE}.Run"}},
    "nested auto_map": {"vision_config": {"auto_map": {"AutoConfig": "someone/repo--x.Y"}}},
    "a kernel of the hub": {"_attn_implementation": "someone/kernel"},
    "one with a function": {"attn_implementation": "someone/kernel@v1:run"},
    "one of two": {"attn_implementation": {"": "sdpa", "vision_config": "someone/kernel"}},
    "experts": {"experts_implementation": "someone/kernel"},
    "generation": {"custom_generate": "someone/repo"},
    "kernels": {"kernel_config": {"RMSNorm": "someone/kernel:Layer"}},
}


@pytest.mark.parametrize("changes", CODE.values(), ids=CODE)
def test_other_names_of_code_are_refused_and_never_followed(
    vit_directory: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Break it: look at the outermost keys only, or for a slash only."""
    directory = copy_of(vit_directory, tmp_path / "model")
    edit(directory, **changes)
    with pytest.raises(ModelError, match=r"names code: .*Remove .*model\.trust = true"):
        load_model(directory)
    plain, trusted = load_model(vit_directory), load_model(directory, trust=True)
    assert type(trusted) is type(plain)
    assert all(torch.equal(t, plain.state_dict()[n]) for n, t in trusted.state_dict().items())
    assert not set(changes) & set(LIBRARY.config_of(trusted)) - {"vision_config"}


def test_a_processor_that_names_code_is_refused_and_its_class_is_not_imported(
    vit_directory: Path, tmp_path: Path
) -> None:
    """Break it: ask transformers for whatever a processor is called."""
    directory = copy_of(vit_directory, tmp_path / "model")
    for odd in ("pipeline", "AutoModel", "os", "__name__", "BertImageProcessorFast"):
        text = json.dumps({"image_processor_type": odd, "size": {"height": 8, "width": 8}})
        (directory / PROCESSOR).write_text(text)
        assert input_spec(directory).mean == (0.5,) * 3  # nobody's defaults
    (directory / PROCESSOR).write_text(json.dumps({"auto_map": {"AutoImageProcessor": "x.Y"}}))
    with pytest.raises(ModelError, match=r"preprocessor_config\.json' names code: auto_map"):
        load_model(directory)


@pytest.mark.parametrize("name", ["eager", "sdpa", "flash_attention_2", "flex_attention"])
def test_a_known_implementation_of_attention_is_not_followed(
    vit_directory: Path, tmp_path: Path, name: str
) -> None:
    """Break it: hand the key to transformers, which then wants flash_attention_2 installed."""
    directory = copy_of(vit_directory, tmp_path / "model")
    edit(directory, _attn_implementation=name, attn_implementation=name)
    model: Any = load_model(directory)
    plain: Any = load_model(vit_directory)
    assert model.config._attn_implementation == plain.config._attn_implementation


def test_quantised_weights_are_refused(vit_directory: Path, tmp_path: Path) -> None:
    directory = copy_of(vit_directory, tmp_path / "model")
    edit(directory, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    for trust in (False, True):
        with pytest.raises(ModelError, match=r"has quantization_config: its weights are quantised"):
            load_model(directory, trust=trust)


def test_a_checkpoint_that_transformers_converts_is_read_from_no_other_file(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: give transformers the directory of such a checkpoint, not its tensors.

    It would then load the model that adapter_config.json names, and the file that the config does.
    """
    directory = copy_of(vit_directory, tmp_path / "model")
    adapters = {"base_model_name_or_path": str(tmp_path / "nowhere"), "peft_type": "LORA"}
    (directory / "adapter_config.json").write_text(json.dumps(adapters))
    edit(directory, transformers_weights="../nowhere/model.safetensors")
    plain = load_model(vit_directory)
    monkeypatch.setattr(
        "fedsplit.models.libraries.transformers._renaming",
        lambda model: lambda key: (key, True),
    )
    found = resolve(directory)
    with LIBRARY.open(found.source, found.skeleton(), None) as stored:
        for name, tensor in plain.state_dict().items():
            assert torch.equal(stored.read(name), tensor)


ARGUMENTS: dict[str, tuple[str, dict[str, object]]] = {
    "a file for timm": ("timm", {"model_args": {"checkpoint_path": "/etc/passwd"}}),
    "a cache": ("timm", {"model_args": {"cache_dir": "/tmp"}}),
    "pretrained": ("timm", {"model_args": {"pretrained": True}}),
    "another config": ("timm", {"model_args": {"pretrained_cfg_overlay": {"file": "x.bin"}}}),
    "a class": ("timm", {"model_args": {"block_fn": "os:system"}}),
    "a device": ("timm", {"model_args": {"device": "cuda"}}),
    "weights to download": ("torchvision", {"weights": "IMAGENET1K_V1"}),
    "progress": ("torchvision", {"progress": True}),
    "a class of torchvision": ("torchvision", {"norm_layer": "x"}),
    "a stem": ("torchvision", {"conv_stem_configs": []}),
}


@pytest.mark.parametrize(("library", "changes"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_lead_elsewhere_are_refused(
    tmp_path: Path, library: str, changes: dict[str, object]
) -> None:
    """Break it: leave `check_arguments` out."""
    save_model(library_zoo.make(library), library_zoo.SPEC, tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ModelError, match=r"is none that a file may give to .*Remove it"):
        load_model(tmp_path, trust=True)


def test_timm_is_not_told_where_weights_would_be(tmp_path: Path) -> None:
    save_model(library_zoo.make("timm"), library_zoo.SPEC, tmp_path)
    known = json.loads((tmp_path / CONFIG).read_text())["pretrained_cfg"]
    places = {"file": "/etc/passwd", "url": "http://x/y", "hf_hub_id": "a/b", "custom_load": True}
    edit(tmp_path, pretrained_cfg={**known, **places})
    loaded: Any = load_model(tmp_path)
    assert not {name for name in places if loaded.pretrained_cfg.get(name)}


@pytest.mark.parametrize(
    "key", ["return_dict", "use_return_dict", "torchscript", "output_attentions"]
)
def test_what_else_a_model_would_return_is_not_asked_for(
    vit_directory: Path, tmp_path: Path, key: str
) -> None:
    """Break it: give it to transformers; the model then returns a tuple, or raises."""
    for file in vit_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / CONFIG).read_text())
    on = not key.endswith("return_dict")
    (tmp_path / CONFIG).write_text(json.dumps({**config, key: on}))
    spec = input_spec(tmp_path)
    images = torch.zeros(1, spec.channels, spec.height, spec.width)
    assert torch.equal(
        load_model(tmp_path)(images).logits, load_model(vit_directory)(images).logits
    )
