"""What a resolved model's cache key covers, and that a skeleton is made once."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from fedsplit.errors import FedSplitError
from fedsplit.models import InputSpec, SplitModel, Stage, register_family, resolve

_numbers = itertools.count()

Define = Callable[[Callable[..., object]], str]


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Define:
    """Define a model function, or define it again as a notebook cell does; returns its name."""
    module = ModuleType(f"notebook_{next(_numbers)}")  # a run of one test is none of another's
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def once_more(function: Callable[..., object]) -> str:
        vars(module)["make"] = function
        return f"{module.__name__}:make"

    return once_more


def _parts(width: int) -> SplitModel:
    return SplitModel(
        nn.Sequential(nn.Flatten(), nn.Linear(784, width)),
        nn.Linear(width, width),
        nn.Linear(width, 10),
    )


def _width(name: str, run: str) -> int:
    part = resolve(name, run=run, trust=True).empty_part("bottom", [1])
    return int(part.state_dict()["bottom.1.bias"].shape[0])


def test_a_function_is_called_once_for_a_run_and_afresh_for_the_next(define: Define) -> None:
    """Break it: leave the run out of the key, or keep what was made without a run."""
    calls: list[int] = []

    def of_width(width: int) -> Callable[[], SplitModel]:
        def make() -> SplitModel:
            calls.append(width)
            return _parts(width)

        return make

    name = define(of_width(3))
    assert [_width(name, "run 1"), _width(name, "run 1"), _width(name, "")] == [3, 3, 3]
    assert calls == [3, 3]
    define(of_width(4))
    assert [_width(name, "run 2"), _width(name, ""), _width(name, "run 2")] == [4, 4, 4]
    assert calls == [3, 3, 4, 4]
    assert resolve(name, run="run 2") is resolve(name, run="run 2")
    assert resolve(name) is not resolve(name)


def test_a_saved_models_function_counts_as_a_function(define: Define, tmp_path: Path) -> None:
    """Break it: look at the name alone to tell that a function makes the model."""
    name = define(lambda: _parts(3))
    config = {"model_type": "custom", "factory": name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert _width(str(tmp_path), "run 1") == 3
    define(lambda: _parts(4))
    assert [_width(str(tmp_path), run) for run in ("run 2", "")] == [4, 4]


def test_a_function_that_fails_is_called_again(define: Define) -> None:
    """Break it: keep the failure."""

    def fail() -> SplitModel:
        raise RuntimeError("not yet")

    name = define(fail)
    with pytest.raises(FedSplitError, match="cannot be loaded: not yet"):
        _width(name, "run 1")
    define(lambda: _parts(3))
    assert _width(name, "run 1") == 3


def test_the_class_of_a_registered_family_may_be_defined_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: treat every family as built in."""
    monkeypatch.setattr("tests.models.test_resolved.Own", _own(3), raising=False)
    register_family(
        "defined again",
        model_class="tests.models.test_resolved:Own",
        model_type="defined-again",
        stages=lambda _: [
            Stage("stem", ("stem",), lambda root, images: root.stem(images)),
            Stage("head", ("head",), lambda root, hidden: root.head(hidden)),
        ],
        library="torchvision",
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "defined-again"}))
    first = resolve(tmp_path, run="run 1")
    assert first.skeleton(10).state_dict()["stem.bias"].shape == (3,)
    monkeypatch.setattr("tests.models.test_resolved.Own", _own(4))
    second = resolve(tmp_path, run="run 2")
    assert second.skeleton(10).state_dict()["stem.bias"].shape == (4,)
    assert first.skeleton(10).state_dict()["stem.bias"].shape == (3,)


def _own(width: int) -> type[nn.Module]:
    class Own(nn.Module):
        def __init__(self, num_classes: int, **_: object) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, width), nn.Linear(width, num_classes)

    return Own


@pytest.mark.parametrize(
    ("file", "changes"),
    [("config.json", {"num_hidden_layers": 1}), ("preprocessor_config.json", {"image_mean": 0.25})],
)
def test_a_config_of_the_same_size_and_time_is_read_anew(
    vit_directory: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    """Break it: put the file's time and size into the key instead of what is in it."""
    shutil.copytree(vit_directory, tmp_path / "model")
    path = tmp_path / "model" / file
    values = json.loads(path.read_text()) if path.exists() else {"image_mean": 0.75}
    path.write_text(json.dumps(values))
    first, status = resolve(tmp_path / "model"), path.stat()
    spec, blocks = first.input_spec(), len(first.skeleton().state_dict())
    path.write_text(json.dumps({**values, **changes}))
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = resolve(tmp_path / "model")
    assert second is not first
    assert (second.input_spec() == spec) == (file == "config.json")
    assert (len(second.skeleton().state_dict()) == blocks) == (file != "config.json")
    assert resolve(tmp_path / "model") is second


def test_a_relative_name_is_another_model_in_another_folder(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: keep the directory relative, or leave it out of the key."""
    for folder in ("one", "two"):
        shutil.copytree(vit_directory, tmp_path / folder / "model")
    monkeypatch.chdir(tmp_path / "one")
    first = resolve("model")
    monkeypatch.chdir(tmp_path / "two")
    second = resolve("model")
    assert [model.source.directory for model in (first, second)] == [
        tmp_path / "one" / "model",
        tmp_path / "two" / "model",
    ]
    shutil.rmtree(tmp_path / "two")
    assert torch.is_tensor(first.load().state_dict()["classifier.weight"])


def test_a_skeleton_is_made_once_whoever_asks(define: Define) -> None:
    """Break it: make it outside the lock."""
    calls: list[int] = []
    barrier = Barrier(8)

    def make() -> SplitModel:
        calls.append(1)
        return _parts(3)

    name = define(make)

    def ask(_: int) -> tuple[nn.Module, SplitModel]:
        barrier.wait()
        model = resolve(name, run="threads")
        return model.skeleton(), model.parts_skeleton([1])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert len(calls) == 1
    assert len({(id(whole), id(parts)) for whole, parts in found}) == 1


def test_a_function_may_load_a_model_that_another_thread_is_making(define: Define) -> None:
    """Two locks would wait for each other. Break it: guard each memo by a lock of its own."""
    barrier = Barrier(2)

    def make() -> SplitModel:
        barrier.wait(timeout=20)
        time.sleep(0.2)  # meanwhile the other thread begins with the same inner model
        resolve("vit-nano").skeleton(17)
        return _parts(3)

    name = define(make)

    def inner() -> nn.Module:
        barrier.wait(timeout=20)
        return resolve("vit-nano").skeleton(17)

    with ThreadPoolExecutor(2) as pool:
        outer, other = pool.submit(resolve(name).skeleton), pool.submit(inner)
        assert outer.result(timeout=60) is not None
        assert other.result(timeout=60) is resolve("vit-nano").skeleton(17)


def test_two_spellings_of_one_cut_are_one_value() -> None:
    """Break it: take the points as they were given for the key."""
    model = resolve("vit-nano")
    assert model.parts_skeleton([2]) is model.parts_skeleton((2, 5))
    assert model.parts_skeleton([2]) is not model.parts_skeleton([2, 4])


def test_a_number_of_classes_is_checked_before_the_memo_is_asked() -> None:
    """Break it: look True up, which equals 1."""
    model = resolve("vit-nano")
    model.skeleton(1)
    for wrong in (True, 0, -1, 2.0):
        with pytest.raises(FedSplitError, match=f"num_labels is {wrong!r}"):
            model.skeleton(wrong)  # type: ignore[arg-type]


def test_a_model_of_your_own_without_a_spec_takes_the_images_there_are(define: Define) -> None:
    name = define(lambda: _parts(3))
    spec = resolve(name).input_spec(lambda: (1, 28, 28))
    assert spec == InputSpec(1, 28, 28, (0.5,), (0.5,))
