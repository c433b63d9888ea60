"""Modules of your own train in every strategy; the classes are in tests/models/own.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedsplit import SplitModel, load_split_model, simulate, split_model
from fedsplit.errors import ConfigError, ModelError
from fedsplit.models import InputSpec, input_spec, load_model, save_model
from fedsplit.models.custom import BaseBottomModel, JoinedModel
from fedsplit.seeding import seeded_init
from tests.conftest import distance, weights
from tests.models.own import Bottom, make

pytestmark = pytest.mark.usefixtures("undrawn")

NAME = "tests.models.own:make"
IMAGES = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)


def test_parts_of_your_own_are_a_split_model() -> None:
    parts = make()
    bottom, trunk, top = parts
    whole = parts.merge()
    assert isinstance(whole, JoinedModel)
    assert torch.equal(whole(IMAGES), top(trunk(bottom(IMAGES))))
    assert torch.equal(parts.server_part()(bottom(IMAGES)), whole(IMAGES))
    split = split_model(whole, [1])
    assert split.bottom.state_dict().keys() == {f"bottom.{n}" for n in bottom.state_dict()}
    again = split.merge()
    assert isinstance(again, JoinedModel)
    assert again.bottom is bottom


def test_they_are_loaded_by_the_name_of_their_function() -> None:
    with seeded_init(1, "model"):
        split = load_split_model(NAME, [1], num_labels=4)
    with seeded_init(1, "model"):
        made = make(4)
    assert torch.equal(split.top(split.trunk(split.bottom(IMAGES))), made.merge()(IMAGES))
    assert split.top(split.trunk(split.bottom(IMAGES))).shape == (2, 4)
    with pytest.raises(ModelError, match="0 bottom, 1 trunk, 2 top"):
        load_split_model(NAME, [3])


def test_a_model_of_a_family_of_your_own_is_saved_and_loaded(tmp_path: Path) -> None:
    """Break it: do not note the function's name in `CustomLibrary.build`."""
    model = load_model("tests.models.own:make_whole", num_labels=3)
    spec = InputSpec(1, 2, 2, (0.5,), (0.5,))
    save_model(model, spec, tmp_path / "model", class_names=["a", "b", "c"])
    loaded = load_split_model(str(tmp_path / "model"), [1], num_labels=3, trust=True)
    assert distance(loaded.merge().state_dict(), model.state_dict()) == 0


def test_images_are_those_of_the_data_set_unless_the_bottom_says() -> None:
    assert input_spec(NAME, images=lambda: (3, 9, 8)) == InputSpec(3, 9, 8, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ModelError, match=r"input_spec = InputSpec\(channels, height, width"):
        input_spec(NAME)


def test_the_bottoms_own_input_spec_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = InputSpec(1, 28, 28, (0.2,), (0.3,))
    monkeypatch.setattr(Bottom, "input_spec", spec)
    assert input_spec(NAME) == spec


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("tests.models.own:nothing", ConfigError, "cannot be imported.*defines Bottom"),
        ("no_such_package.models:make", ConfigError, "cannot be imported"),
        ("tests.models.own:__name__", ModelError, r"is no function; make it return SplitModel\("),
        ("tests.models.own:make_tied", ModelError, "a bottom and a trunk that share .*weight"),
        ("tests.models.own:make_nonsense", ModelError, r"returned int; make it return SplitM"),
        (
            "tests.models.own:make_with_arguments",
            ModelError,
            r"make_with_arguments' cannot be called: missing a required argument: 'width'.*default",
        ),
        (
            "tests.models.own:make_without_a_trunk",
            ModelError,
            "returned NoneType as the trunk, which is no nn.Module; make it return SplitModel",
        ),
        (
            "tests.models.own:make_of_a_missing_file",
            ModelError,
            r"No such file.*the function 'tests\.models\.own:make_of_a_missing_file' makes: check",
        ),
    ],
)
def test_a_name_that_makes_no_model_is_refused(name: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        load_split_model(name, [1])


def test_a_class_without_a_forward_is_told() -> None:
    with pytest.raises(NotImplementedError, match="BaseBottomModel needs a forward"):
        BaseBottomModel()(IMAGES)


def test_foreign_modules_among_parts_are_refused() -> None:
    parts = load_split_model("vit-nano", [1])
    with pytest.raises(ModelError, match="not all parts of one split model"):
        SplitModel(make().bottom, parts.trunk, parts.top).merge()


KEYS: dict[str, object] = {
    "model.name": NAME,
    "num-clients": 2,
    "num-server-rounds": 1,
    "batch-size": 8,
    "data.max-train-samples": 40,
    "data.max-test-samples": 20,
    "seed": 3,
}


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
@pytest.mark.parametrize("strategy", ["sequential", "sflv1", "sflv2", "sflv3", "parallel"])
def test_they_train_in_every_strategy(tmp_path: Path, strategy: str, topology: str) -> None:
    """Break it: leave the trunk out of what the server's optimizer holds."""
    result = simulate(
        KEYS, strategy=strategy, split_topology=topology, output_dir=str(tmp_path), run_name="x"
    )
    with seeded_init(3, "model"):
        start = make(10).merge().state_dict()
    trained = result.model.merge().state_dict()
    unchanged = [name for name in start if torch.equal(start[name], trained[name])]
    assert unchanged == []
    assert result.rounds[0]["failed_clients"] == []
    saved = load_model(str(tmp_path / "x" / "model"), trust=True)
    assert torch.equal(saved(IMAGES), result.model.merge().eval()(IMAGES))


@pytest.mark.slow
def test_sflv1_is_full_for_them_too(tmp_path: Path) -> None:
    split, full = (
        simulate(KEYS, strategy=strategy, output_dir=str(tmp_path))
        for strategy in ("sflv1", "full")
    )
    assert distance(weights(split), weights(full)) < 1e-5


def test_a_saved_model_whose_function_fails_blames_the_function(tmp_path: Path) -> None:
    """Break it: let the general message speak of the directory and its config.json."""
    config = {"model_type": "custom", "factory": "tests.models.own:make_of_a_missing_file"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"make_of_a_missing_file' makes: check that function"):
        load_model(tmp_path, trust=True)
