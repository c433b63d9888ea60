"""What is wrong with a model is said by the command line in one paragraph, before a run begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fedsplit.models import load_model
from fedsplit.seeding import seeded_init
from tests.conftest import Call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with seeded_init(1, "model"):
        model: Any = load_model("vit-nano", num_labels=10)
    model.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def _refused(call: Call, config: Path, name: str) -> str:
    arguments = ["run", str(config), "--engine", "inprocess", "--set", f"model.name={name}"]
    code, said = call(*arguments)
    assert code == 2, said
    assert said.startswith("fedsplit: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not (config.parent / "runs").exists()
    return said


@pytest.mark.parametrize(
    ("lost", "added", "said"),
    [
        ("classifier.weight", None, ("classifier.weight",)),
        ("vit.layernorm.bias", "vit.more.weight", ("vit.layernorm.bias", "vit.more.weight")),
        (None, "vit.more.weight", ("vit.more.weight",)),
    ],
)
def test_missing_and_extra_keys(
    call: Call, config: Path, checkpoint: Path, lost: str | None, added: str | None,
    said: tuple[str, ...],
) -> None:  # fmt: skip
    tensors = load_file(checkpoint / "model.safetensors")
    if lost:
        del tensors[lost]
    if added:
        tensors[added] = tensors["vit.layernorm.weight"].clone()
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    paragraph = _refused(call, config, str(checkpoint))
    assert [text for text in (str(checkpoint), *said) if text not in paragraph] == []


def test_an_unknown_family(call: Call, config: Path, checkpoint: Path) -> None:
    settings = json.loads((checkpoint / "config.json").read_text())
    settings |= {"model_type": "bert", "architectures": ["BertModel"]}
    (checkpoint / "config.json").write_text(json.dumps(settings))
    paragraph = _refused(call, config, str(checkpoint))
    for text in (f"'{checkpoint}' with model_type 'bert'", "vit (ViTFor", "register_family"):
        assert text in paragraph


def test_an_optional_library_that_is_not_installed(
    call: Call, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    paragraph = _refused(call, config, "timm:vit_tiny_patch16_224")
    assert "timm" in paragraph
    assert "pip install" in paragraph


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached(config: Path, tmp_path: Path) -> None:
    """In a process of its own: the hub's address is read when its library is imported."""
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("fedsplit")), "run", str(config)),
            *("--engine", "inprocess", "--set", "model.name=someone/some-vit"),
        ],
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fedsplit: ")
    assert "Traceback" not in done.stderr
    for text in ("someone/some-vit", "cannot be reached", "local directory"):
        assert text in last
