"""Runs of Python objects; tests/test_simulation_resume.py has those that continue."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from flwr.serverapp.strategy import FedAdam, FedAvg
from torch import Tensor, nn

from fedsplit import Config, Metric, load_split_model, simulate
from fedsplit.data import catalog, shards, sources
from fedsplit.data.folders import read_folder
from fedsplit.errors import ConfigError, DataError, ModelError
from fedsplit.models import load_model
from fedsplit.seeding import seeded_init
from strategies.sflv1 import SFLV1
from tests.conftest import TINY, weights
from tests.data.pictures import image_folder
from tests.notebook import KEYS, Toy, parts, run_small, same
from tests.strategies.own import Slowing

pytestmark = pytest.mark.usefixtures("undrawn")
MAKE = "tests.small_models:make"


@pytest.mark.parametrize("kind", ["pillow", "bytes", "floats", "dataset", "splits"])
def test_images_as_an_object_give_the_bits_of_the_same_images_in_a_folder(
    kind: str, tmp_path: Path
) -> None:
    """Break it: read the labels of a torch data set in another order, or write JPEGs."""
    torchvision: Any = pytest.importorskip("torchvision")
    torch_folder, change = torchvision.datasets.ImageFolder, torchvision.transforms.functional
    folder = image_folder(tmp_path / "images", {"ant": 24, "bee": 24})
    rows = read_folder(folder)["train"]
    data: Any = {
        "pillow": torch_folder(folder),
        "bytes": torch_folder(folder, transform=change.pil_to_tensor),
        "floats": torch_folder(folder, transform=change.to_tensor),
        "dataset": rows,
        "splits": datasets.DatasetDict({"train": rows}),
    }[kind]
    named = run_small(tmp_path, model_name=MAKE, data_name=str(folder))
    given = run_small(tmp_path, model_name=MAKE, data=data)
    assert same(named, given)
    assert given.rounds[-1]["num_examples"] == 36
    expected = "object:ImageFolder" if kind in ("pillow", "bytes", "floats") else "object:Dataset"
    assert given.summary["dataset"] == expected


@pytest.mark.parametrize(
    "keys",
    [{}, {"split_topology": "u-shaped"}, {"strategy": "full"}, {"strategy": "sflv3"}],
    ids=str,
)
def test_three_modules_give_the_bits_of_the_function_that_makes_them(
    keys: dict[str, str], tmp_path: Path
) -> None:
    """Break it: draw the weights anew, or train the modules that were given."""
    given = parts()
    given.bottom.train()
    given.top.weight.grad = torch.ones(2, 12)
    before = {name: tensor.clone() for name, tensor in given.merge().state_dict().items()}
    named = run_small(tmp_path, data=Toy(), model_name=MAKE, **keys)
    ours = run_small(tmp_path, data=Toy(), model=given, **keys)
    assert same(named, ours)
    assert all(torch.equal(before[n], t) for n, t in given.merge().state_dict().items())
    assert given.bottom.training
    assert torch.equal(given.top.weight.grad, torch.ones(2, 12))
    assert ours.summary["pretrained"] is True
    assert any(bool((before[n] != t).any()) for n, t in weights(ours).items())


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_a_whole_model_gives_the_bits_of_its_name(trainable: str, tmp_path: Path) -> None:
    """With adapters, clients copy frozen weights. Break it: copy what the run has trained."""
    with seeded_init(7, "model"):
        module = load_model("vit-nano", num_labels=10)
    base = {**TINY, "output-dir": str(tmp_path), "split.trainable": trainable}
    named = simulate(base, verbose=False)
    given = simulate(base, model=module, verbose=False)
    assert same(named, given)
    again = load_split_model(given.run_dir / "model", [1]).merge().state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights(given).items())
    assert not hasattr(module, "factory")


def test_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'object:SplitModel' returns \[B, 3\].*logits \[B, 2\]"):
        run_small(tmp_path, data=Toy(), model=parts(num_labels=3))
    with pytest.raises(ModelError, match=r"returns \[B, 10\].*logits \[B, 2\]"):
        run_small(tmp_path, data=Toy(), model=load_model("vit-nano"))
    assert not any(tmp_path.iterdir())


class Named(SFLV1):
    """A strategy of this module."""


def test_a_strategy_is_a_class(tmp_path: Path) -> None:
    class Local(SFLV1):
        """No module has it, as that of a notebook cell within a function."""

    given: dict[str, Any] = {"data": Toy(), "model": parts()}
    runs = [run_small(tmp_path, **given, strategy=each) for each in ("sflv1", SFLV1, Named, Local)]
    assert all(same(runs[0], other) for other in runs[1:])
    assert [result.summary["strategy"] for result in runs] == [
        *("sflv1", "sflv1", "tests.test_simulation:Named", "object:Local")
    ]


def test_an_aggregator_is_a_class_or_an_instance_that_stays_as_it_is(tmp_path: Path) -> None:
    """Break it: run with the instance itself: the second run then goes elsewhere."""
    given: dict[str, Any] = {"data": Toy(), "model": parts()}
    named = run_small(
        tmp_path, **given, aggregation_name="FedAdam", aggregation_options="eta = 0.5"
    )
    instance = FedAdam(eta=0.5)
    for aggregator in (instance, instance):
        assert same(named, run_small(tmp_path, **given, aggregator=aggregator))
    assert instance.m_t is None
    by_class = run_small(tmp_path, **given, aggregator=FedAdam, aggregation_options="eta = 0.5")
    assert same(named, by_class)
    assert Config.load(by_class.run_dir / "config.toml").aggregation.name == "FedAdam"
    own = run_small(tmp_path, **given, aggregator=Slowing(step=0.5))
    assert not same(named, own)
    asked = Config.load(own.run_dir / "config.toml").aggregation
    assert (asked.name, asked.options) == ("object:Slowing", "step = 0.5, num_rounds = 0")


def test_the_directory_says_what_a_run_was_given(tmp_path: Path) -> None:
    result = run_small(tmp_path, data=Toy(), model=parts(), aggregator=FedAvg())
    path = result.run_dir / "config.toml"
    first = path.read_text().splitlines()[0]
    assert first == f"# fedsplit.simulate('{path}', data=..., model=..., aggregator=...)"
    assert same(result, run_small(tmp_path, data=Toy(), model=parts(), aggregator=FedAvg()))
    again = simulate(
        path, data=Toy(), model=parts(), aggregator=FedAvg(), run_name="again", verbose=False
    )
    assert same(result, again)


def _share_of_light(logits: Tensor, labels: Tensor) -> Tensor:
    assert labels.tolist() == [0, 1] * 4
    assert logits.shape == (8, 2)
    return (logits.argmax(-1) == 1).float().mean()


@pytest.mark.parametrize("strategy", ["sflv1", "sflv3"])
def test_a_metric_is_in_rows_summary_and_report(strategy: str, tmp_path: Path) -> None:
    """Break it: leave the metrics out of what the recorder starts with."""
    from fedsplit.report.write import write_report

    metric = Metric("light", "share of light", over_rounds="mean")
    result = run_small(
        tmp_path,
        data=(Toy(), Toy(8)),
        model=parts(),
        strategy=strategy,
        metrics={metric: _share_of_light},
    )
    values = [row["light"] for row in result.rounds]
    assert all(0 <= value <= 1 for value in values)
    assert result.summary["light"] == pytest.approx(sum(values) / 3)
    assert result.summary["declared_metrics"][0]["label"] == "share of light"
    report = next(path for path in write_report(result.run_dir) if path.suffix == ".md")
    assert "share of light" in report.read_text()


def test_a_quiet_run_shows_warnings_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break it: forget verbose where a run begins."""
    run_small(tmp_path, data=Toy(), model=parts())
    assert capsys.readouterr() == ("", "")
    simulate(KEYS, data=Toy(), model=parts(), output_dir=str(tmp_path))
    assert "Run directory" in capsys.readouterr().out


def test_nothing_keeps_the_objects_when_the_run_has_ended(tmp_path: Path) -> None:
    """Break it: keep the module in `GivenModel.release`, or the object in `sources._seen`."""
    data, model, aggregator = Toy(), parts(), FedAdam()
    keys: dict[str, Any] = {"strategy": "full", "split_trainable": "bottom-frozen"}
    result = run_small(tmp_path, data=data, model=model, aggregator=aggregator, **keys)
    left = [weakref.ref(each) for each in (data, model.bottom, model.top, aggregator)]
    del data, model, aggregator
    gc.collect()
    assert [ref() for ref in left] == [None] * 4
    assert result.rounds
    keys_left = [*catalog._CACHE._futures, *shards._SHARDS._futures, *shards._TESTS._futures]
    assert [key for key in keys_left if "object:" in repr(key)] == []
    assert [key for key in sources._seen if key[0].startswith("object:")] == []


def test_nothing_is_kept_of_a_run_that_fails(tmp_path: Path) -> None:
    data = Toy()
    with pytest.raises(ModelError):
        run_small(tmp_path, data=data, model=parts(num_labels=3))
    left = weakref.ref(data)
    del data
    gc.collect()
    assert left() is None


def test_a_new_object_is_not_taken_for_an_old_one(tmp_path: Path) -> None:
    """Ids are used again. Break it: key what is cached by the object's id, or by its name alone."""
    seen = []
    for count in (48, 60, 72):
        data = Toy(count)
        seen.append(run_small(tmp_path, data=data, model=parts(), num_server_rounds=1))
        del data
        gc.collect()
    assert [result.rounds[0]["num_examples"] for result in seen] == [36, 46, 54]
    other = run_small(tmp_path, data=Toy(48, first=500), model=parts(), num_server_rounds=1)
    assert not same(seen[0], other)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_runs_in_threads_have_their_own_objects(tmp_path: Path) -> None:
    """Break it: name the objects of a run before it is its turn."""
    found: dict[int, Any] = {}

    def run(count: int) -> None:
        found[count] = run_small(tmp_path, data=Toy(count), model=parts(), num_server_rounds=1)

    threads = [threading.Thread(target=run, args=(count,)) for count in (48, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[count].rounds[0]["num_examples"] for count in (48, 60)] == [36, 46]


def test_a_callback_may_make_a_run_of_its_own(tmp_path: Path) -> None:
    """Its objects have the same names. Break it: let them replace those of the outer run."""
    inner: list[Any] = []

    def another(row: dict[str, Any]) -> None:
        inner.append(run_small(tmp_path, data=Toy(60), model=parts(9), num_server_rounds=1))

    outer = run_small(tmp_path, data=Toy(), model=parts(), callbacks=[another])
    assert same(outer, run_small(tmp_path, data=Toy(), model=parts()))
    assert [each.rounds[0]["num_examples"] for each in inner] == [46] * 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": Toy(), "data_name": "x"}, r"data_name = 'x' was given beside an object"),
        ({"data": Toy(), "data.name": "x"}, r"data\.name = 'x' was given beside an object"),
        ({"model": parts(), "model_name": "x"}, "model_name = 'x' was given beside"),
        ({"aggregator": FedAvg, "aggregation_name": "Krum"}, "aggregation_name = 'Krum' was given"),
        (
            {"aggregator": FedAdam(), "aggregation_options": "eta = 1.0"},
            r"aggregation_options = 'eta = 1\.0' was given beside an object",
        ),
        ({"aggregator": "FedAdam"}, "aggregator = 'FedAdam' is no class or an instance of one"),
        ({"aggregator": Toy}, "aggregator = <class 'tests.notebook.Toy'> is no class or"),
        ({"aggregator": SFLV1}, "aggregation.name = 'strategies.sflv1:SFLV1' is a strategy of"),
        (
            {"strategy": FedAdam},
            "strategy = <class .*FedAdam'> is no class derived from strategies",
        ),
        ({"strategy": FedAdam()}, "strategy = <.*FedAdam object at .* is no class derived from"),
        ({"model": parts(), "model_image_size": 20}, r"model\.image-size = 20 has no effect"),
        ({"model": parts(), "model_pretrained": False}, r"model\.pretrained = false has no effect"),
        ({"callbacks": print}, "callbacks = <built-in function print> is no list"),
        ({"data": Toy(), "data_config_name": "x"}, r"data\.config-name = 'x' names a subset"),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        run_small(tmp_path, **given)


def test_options_of_a_config_beside_an_instance_are_refused(tmp_path: Path) -> None:
    config = {**KEYS, "aggregation.options": "eta = 1.0", "output-dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"'eta = 1\.0' has no effect on an instance"):
        simulate(config, aggregator=FedAdam())


def test_a_module_whose_positions_are_frozen_stays_so(tmp_path: Path) -> None:
    given = parts()
    layer = given.bottom.get_submodule("layers.1")
    assert isinstance(layer, nn.Linear)
    layer.weight.requires_grad_(False)
    result = run_small(tmp_path, data=Toy(), model=given)
    assert torch.equal(weights(result)["bottom.layers.1.weight"], layer.weight)
    assert not torch.equal(weights(result)["bottom.layers.1.bias"], layer.bias)
