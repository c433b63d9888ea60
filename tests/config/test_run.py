from __future__ import annotations

import shlex
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fedsplit import Config
from fedsplit.config import DEFAULT_NUM_CLIENTS, read_toml, with_clients
from fedsplit.errors import ConfigError

ROOT = Path(__file__).parents[2]
# Those of comparisons: tests/compare/test_runs.py.
CONFIGS = [
    path for path in sorted((ROOT / "configs").glob("*.toml")) if "variants" not in read_toml(path)
]


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def test_defaults_are_those_of_the_flower_app() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = _flat(project["tool"]["flwr"]["app"]["config"])

    flat = Config().to_flat()
    assert flat == declared
    assert {key: type(value) for key, value in flat.items()} == {
        key: type(value) for key, value in declared.items()
    }
    assert list(flat) == list(declared)  # a reader finds a key at the same place in both


def test_the_contract_of_fixed_names() -> None:
    flat = Config().to_flat()
    fixed = """strategy num-server-rounds local-epochs batch-size learning-rate fraction-train
        fraction-evaluate seed device output-dir num-clients data.name data.partitioner data.alpha
        data.max-train-samples model.name model.pretrained split.cut-layer aggregation.name"""
    assert set(fixed.split()) <= set(flat)
    assert flat["strategy"] == "sflv1"
    assert flat["model.name"] == "vit-nano"
    assert flat["data.name"] == "fashion-mini"
    assert flat["split.cut-layer"] == 1


def test_every_key_says_what_it_means() -> None:
    sections: list[type[BaseModel]] = [
        Config,
        *(type(s) for _, s in Config() if isinstance(s, BaseModel)),
    ]
    silent = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if not field.description and not isinstance(field.default, BaseModel)
    ]
    assert len(sections) > 7
    assert silent == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_load_and_say_how(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert shlex.split(first) == ["#", "fedsplit", "run", f"configs/{path.name}"]

    config = Config.load(path)
    values, defaults = _flat(read_toml(path)), Config().to_flat()
    assert {key: config.to_flat()[key] for key in values} == values
    about = ("strategy", "data.alpha")  # what a file is about may be said
    redundant = [k for k, v in values.items() if defaults[k] == v and k not in about]
    assert redundant == []  # only the keys that differ


def test_there_are_shipped_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"sflv1", "full"}


WRONG: dict[str, object] = {
    "bach-size": 4,
    "learning-rate": "fast",
    "seed": 1.5,
    "model.pretrained": 1,
    "split.cut_layers": 2,
    "data.partitioner": "idd",
    "momentum": float("nan"),
    "data.alpha": 0.0,
    "num-server-rounds": True,
    "run-name": "a/b",
    "data.name": 3,
    "aggregation": "FedAvg",
    "zzzzzzzz": 1,
}


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_flat(WRONG, source="my.toml")

    head, *lines = str(caught.value).splitlines()
    assert head == f"my.toml has {len(WRONG)} errors:"
    found = {line.strip().partition(" = ")[0].partition(":")[0]: line.strip() for line in lines}
    assert set(found) == set(WRONG)
    assert found["bach-size"] == "bach-size = 4: unknown key; did you mean 'batch-size'?"
    assert found["learning-rate"] == "learning-rate = 'fast': must be a number"
    assert found["seed"] == "seed = 1.5: must be a whole number"
    assert found["model.pretrained"] == "model.pretrained = 1: must be true or false"
    assert found["split.cut_layers"].endswith("did you mean 'split.cut-layer'?")
    assert found["data.partitioner"] == (
        "data.partitioner = 'idd': must be 'iid', 'dirichlet', 'inner-dirichlet', "
        "'pathological', 'shard', 'linear', 'square', 'exponential' or 'natural-id'"
    )
    assert found["momentum"] == "momentum = nan: must be a finite number"
    assert found["data.alpha"] == "data.alpha = 0.0: must be greater than 0"
    assert found["num-server-rounds"] == "num-server-rounds = True: must be a whole number"
    assert "plain directory name" in found["run-name"]
    assert found["data.name"] == "data.name = 3: must be a text in quotes"
    assert "aggregation.name" in found["aggregation"]
    assert "valid keys: strategy, num-server-rounds" in found["zzzzzzzz"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("batch-size", 0), ("num-clients", -1), ("local-epochs", 0), ("seed", -1)),
        *(("fraction-train", 0.0), ("fraction-train", 1.1), ("fraction-evaluate", -0.1)),
        *(("learning-rate", 0.0), ("learning-rate", float("inf")), ("momentum", 1.0)),
        *(("split.cut-layer", 0), ("strategy", "sflv9"), ("optimizer", "SGD"), ("device", "")),
        *(("data.validation-fraction", 1.0), ("data.max-train-samples", -1)),
        *(("channel.step-timeout", 0.0), ("torch-threads", 0), ("output-dir", "")),
        *(("run-name", ".."), ("run-name", "a\\b"), ("run-name", "a\0b")),
        *(("run-name", "x" * 256), ("run-name", "a\udc80"), ("data.image-column", "a\udc80")),
        *(("output-dir", "a\0b"), ("output-dir", "~nosuchuser/x"), ("output-dir", "x" * 256)),
        *((key, 2**63) for key in ("seed", "batch-size", "num-clients", "split.cut-layer")),
        *(("torch-threads", 1025), ("learning-rate", 1.1e6), ("weight-decay", 1.1e6)),
        *(("seed", None), ("data.classes-per-client", [1]), ("data", {"name": {"a": 1}})),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_flat({key: value})
    assert "1 error" in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"output-dir": ""}, "output-dir = '': must not be empty"),
        ({"split": [1]}, "split = [1]: is a section: set keys in it, such as split.cut-layer"),
        ({"data": 3, "data.name": "x"}, "data = 3: is a section"),
        ({"data.name": "x", "data": 3}, "data = 3: is a section"),
        ({"seed.x": 3}, "seed.x = 3: unknown key; did you mean 'seed'?"),
        ({"run-name": "x" * 300}, "must not contain a file name of more than 255 bytes"),
        ({"output-dir": "a\udc80"}, "output-dir = 'a\\udc80': must be text in UTF-8"),
    ],
)
def test_what_is_wrong_and_nothing_else_is_said(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_flat(values, source="x")
    assert str(caught.value).startswith("x has 1 error:\n  ")
    assert said in str(caught.value)


def test_one_key_in_two_spellings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("batch-size = 3\nbatch_size = 4\n")
    with pytest.raises(
        ConfigError, match=r"a\.toml: batch-size is set twice.*'batch_size'. Keep one"
    ):
        Config.load(path)
    with pytest.raises(ConfigError, match=r"the configuration: batch-size is set twice"):
        Config.from_flat({"batch-size": 3, "batch_size": 3})
    with pytest.raises(ConfigError, match=r"The overrides of the configuration: batch-size"):
        Config.load({}, {"batch-size": 3, "batch_size": 3})


def test_errors_are_told_from_where_they_come(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("seed = -1\n")

    def head(overrides: dict[str, object]) -> str:
        with pytest.raises(ConfigError) as caught:
            Config.load(path, overrides)
        return str(caught.value).splitlines()[0]

    assert head({}) == f"{path} has 1 error:"
    assert head({"batch_size": 0}) == f"{path} and its overrides have 2 errors:"
    assert head({"seed": "x", "data.alpha": 0}) == f"The overrides of {path} have 2 errors:"


def test_a_number_without_a_point_is_a_number() -> None:
    config = Config.from_flat({"learning-rate": 1})
    assert (config.learning_rate, type(config.learning_rate)) == (1.0, float)


@pytest.mark.parametrize(
    "values",
    [
        {"split.cut-layer": 3, "data.alpha": 0.1, "seed": 5},
        {"split": {"cut-layer": 3}, "data": {"alpha": 0.1}, "seed": 5},
        {"split": {"cut_layer": 3}, "data.alpha": 0.1, "seed": 5},
        {"split_cut_layer": 3, "data_alpha": 0.1, "seed": 5},
    ],
    ids=["flat", "nested", "mixed", "underscored"],
)
def test_every_spelling_of_a_mapping(values: dict[str, object]) -> None:
    config = Config.load(values)
    assert (config.split.cut_layer, config.data.alpha, config.seed) == (3, 0.1, 5)


@pytest.mark.parametrize("key", ["split.cut-layer", "split_cut_layer", "split.cut_layer"])
@pytest.mark.parametrize(
    "base", [{"split": {"cut-layer": 2}}, {"split": {"cut_layer": 2}}, {"split_cut_layer": 2}]
)
def test_an_override_replaces_however_either_is_spelt(base: dict[str, object], key: str) -> None:
    assert Config.load(base, {key: 4}).split.cut_layer == 4


def test_an_override_of_a_config_and_of_a_section() -> None:
    config = Config.load(Config(), {"data": {"name": "x", "max-train-samples": 9}, "seed": 1})
    assert (config.data.name, config.data.max_train_samples, config.seed) == ("x", 9, 1)
    assert Config.load(config) == config
    with pytest.raises(ConfigError, match=r"num_rounds = 3: unknown key.*'num-server-rounds'"):
        Config.load(config, {"num_rounds": 3})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('seed = 3\nmodel.name = "m"\n[split]\ncut-layer = 2\n')
    config = Config.load(path)
    assert (config.seed, config.model.name, config.split.cut_layer) == (3, "m", 2)
    assert Config.load(str(path)) == config

    path.write_text("seed = = 3\n")
    with pytest.raises(ConfigError, match=r"a\.toml' is not valid TOML: .*line 1"):
        Config.load(path)
    path.write_text("seed = " + "9" * 5000)  # more digits than Python reads
    with pytest.raises(ConfigError, match=r"a\.toml' cannot be read"):
        Config.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.toml' cannot be read"):
        Config.load(path)
    with pytest.raises(ConfigError, match=r"b\.toml' cannot be read: .*Give the path"):
        Config.load(tmp_path / "b.toml")
    path.write_text('sed = 3\nbatch-size = "x"\n')
    with pytest.raises(ConfigError, match=r"(?s)a\.toml has 2 errors:.*'seed'") as caught:
        Config.load(path)
    assert "batch-size = 'x'" in str(caught.value)


def test_an_engine_that_makes_its_clients_makes_ten() -> None:
    assert with_clients(Config()).num_clients == DEFAULT_NUM_CLIENTS == 10
    assert with_clients(Config.from_flat({"num-clients": 3})).num_clients == 3


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


text = st.text(st.characters(codec="utf-8"), min_size=1)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "strategy": st.sampled_from(["sflv1", "full"]),
    "seed": st.integers(0, 2**63 - 1),
    "learning-rate": st.floats(0, 1e6, exclude_min=True),
    "fraction-evaluate": st.floats(0, 1),
    "model.pretrained": st.booleans(),
    "model.name": text,
    "data.name": text,
    "data.partitioner": st.sampled_from(["iid", "dirichlet", "pathological", "shard"]),
    "data.alpha": st.floats(0, 1e6, exclude_min=True),
    "split.cut-layer": st.integers(1, 99),
    "aggregation.options": st.text(),
    "channel.address": st.integers(0, 65535).map(lambda port: f"localhost:{port}"),
}


@given(st.fixed_dictionaries({}, optional=KEYS))
def test_flat_values_come_back(values: dict[str, object]) -> None:
    config = Config.from_flat(values)
    flat = config.to_flat()

    assert {key: flat[key] for key in values} == values
    assert set(flat) == set(Config().to_flat())
    assert Config.from_flat(flat) == config
    assert Config.load(flat) == Config.load(config) == config


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(), children),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from([*KEYS, "data", "split", "data.", ".", ""]) | st.text(), JUNK)
)
def test_junk_is_refused_in_words_or_taken(values: dict[str, object]) -> None:
    with suppress(ConfigError):
        Config.load(values)
