"""Batches that a shard cannot fill, and batches that BatchNorm cannot train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context
from torch import nn

from fedsplit import Config, simulate
from fedsplit.batch_check import Trained, check_batch_size, check_single_images
from fedsplit.checking import check_shards
from fedsplit.errors import ConfigError
from tests import small_models
from tests.conftest import TINY, Run, distance, weights
from tests.data.pictures import image_folder

pytestmark = pytest.mark.usefixtures("undrawn")

MODELS = "tests.small_models"


def test_every_client_must_have_a_batch() -> None:
    """Break it: refuse a shard whose only batch is smaller, or take one that is dropped."""
    for last in ("keep", "merge"):
        check_batch_size(
            Config.load({"batch-size": 9, "last-batch": last}), dict(enumerate([9, 1]))
        )
    dropped = Config.load({"batch-size": 9, "last-batch": "drop"})
    check_batch_size(dropped, dict(enumerate([9, 10])))
    with pytest.raises(
        ConfigError, match=r"client 1 has nothing to train on: it has 8 .*at most 8, or last-batch"
    ) as caught:
        check_batch_size(dropped, dict(enumerate([9, 8, 8])))
    remedies = ("data.max-train-samples", "data.validation-fraction", "data.partitioner")
    assert all(key in str(caught.value) for key in remedies)
    with pytest.raises(ConfigError, match=r"it has 0 training images\. Use fewer clients"):
        check_batch_size(Config.load({"batch-size": 1}), dict(enumerate([1, 0])))


@pytest.mark.parametrize("strategy", ["sflv1", "sflv2", "parallel", "centralized"])
def test_clients_with_less_than_a_batch_train_on_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, strategy: str
) -> None:
    keys = {**KEYS, "strategy": strategy, "batch-size": 32, "num-server-rounds": 1}
    with caplog.at_level("INFO"):
        result = simulate(keys, output_dir=str(tmp_path))
    assert result.rounds[0]["num_examples"] == 2 * 75
    said = "3 of 3 clients have fewer images than batch-size = 32 (the smallest shard has 25)"
    assert (said in caplog.text) == (strategy != "centralized")


def check(
    model: str,
    sizes: Sequence[int],
    *,
    together: int = 1,
    pooled: bool = False,
    added: Mapping[str, nn.Module] | None = None,
    **keys: object,
) -> list[int]:
    """Check the batches of a model of `small_models`; return how often the model was asked for."""
    asked: list[int] = []

    def make() -> Trained:
        asked.append(1)
        return Trained(getattr(small_models, model)(), small_models.SPEC, added or {})

    config = Config.load({"batch-size": 8}, keys)
    check_single_images(make, dict(enumerate(sizes)), config, together=together, pooled=pooled)
    return asked


def test_what_a_client_rule_adds_is_asked_too() -> None:
    """Break it: look at the model's parts only; every client then fails in the first round."""
    head = {"head": nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 10))}
    with pytest.raises(ConfigError, match=r"17 training images of client 1 .*0: BatchNorm1d"):
        check("make", [16, 17], added=head)
    assert check("make", [16, 24], added=head) == []


@pytest.mark.parametrize("model", ["make_norm_in_bottom", "make_norm_in_trunk"])
def test_a_last_batch_of_one_image_is_refused_where_it_is_normalised(model: str) -> None:
    """Break it: run the probe in eval mode."""
    with pytest.raises(
        ConfigError,
        match=r"batch-size = 8 and last-batch = 'keep', the 17 training images of client 1 give a "
        r"step of one image.*Expected more than 1 value per channel.*in the layer '.*BatchNorm1d'"
        r".*last-batch to 'merge' or 'drop', or choose another batch-size",
    ):
        check(model, [16, 17, 25])
    for last in ("merge", "drop"):
        assert check(model, [16, 17, 25], last_batch=last) == []


def test_a_batch_size_of_one_has_another_remedy() -> None:
    with pytest.raises(ConfigError, match=r"client 0.*Set batch-size to at least 2\.$"):
        check("make_norm_in_bottom", [16], batch_size=1, last_batch="merge")


def test_a_model_that_trains_on_one_image_may_have_one() -> None:
    """Break it: refuse every model with a BatchNorm in it."""
    assert check("make", [17]) == [1]
    assert check("make_norm_over_positions", [17]) == [1]


def test_without_a_step_of_one_image_the_model_is_not_asked() -> None:
    assert check("make_norm_in_bottom", [16, 18, 24]) == []


def test_pooled_images_are_one_shard() -> None:
    assert check("make_norm_in_bottom", [17, 17], pooled=True) == []
    with pytest.raises(ConfigError, match="the 33 training images of all clients together"):
        check("make_norm_in_bottom", [16, 17], pooled=True)


def test_batches_that_are_computed_together_are_no_single_images() -> None:
    """Break it: compare with `together` instead of one less, the others of a round."""
    assert check("make_norm_in_trunk", [17, 18, 2], together=3) == [1], "client 1 has 3 steps too"
    with pytest.raises(ConfigError, match="client 1"):
        check("make_norm_in_trunk", [8, 17, 16], together=3)
    with pytest.raises(ConfigError, match="client 0"):  # a round may have clients 0 and 2 only
        check("make_norm_in_trunk", [17, 18, 8], together=2)
    with pytest.raises(ConfigError, match="client 0"):  # the bottom meets its own batch alone
        check("make_norm_in_bottom", [17, 18], together=2)


KEYS: dict[str, Any] = {
    "num-clients": 3,
    "num-server-rounds": 2,
    "local-epochs": 2,
    "batch-size": 8,
    "data.max-train-samples": 75,
    "data.max-test-samples": 20,
    "data.validation-fraction": 0.0,
}


@pytest.mark.parametrize("strategy", ["sflv1", "full", "sequential", "parallel"])
def test_the_fault_is_found_before_the_run(strategy: str, tmp_path: Path) -> None:
    """25 images each: three batches of 8, and one image.

    Break it: leave the check out of `check_shards` and of the ServerApp.
    """
    keys = {**KEYS, "strategy": strategy, "model.name": f"{MODELS}:make_norm_in_bottom"}
    with pytest.raises(ConfigError, match="the 25 training images of client 0") as caught:
        check_shards(Config.load(keys))
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="client 0"):
        simulate(keys, output_dir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_images_of_the_supernodes_own_are_checked_before_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 images each by the config, but 17 in the folder that each SuperNode really has.

    Break it: leave the check out of the ServerApp.
    """
    shared = image_folder(tmp_path / "shared", {"a": 18, "b": 18})
    own = image_folder(tmp_path / "own", {"a": 9, "b": 8})

    def with_own_images(*, node_config: dict[str, Any], **arguments: Any) -> Context:  # noqa: ANN401
        return Context(node_config={**node_config, "data-path": str(own)}, **arguments)

    monkeypatch.setattr("fedsplit.inprocess.Context", with_own_images)
    keys = {
        "num-clients": 2,
        "data.name": str(shared),
        "model.name": f"{MODELS}:make_norm_in_bottom",
    }
    with pytest.raises(ConfigError, match="the 17 training images of client 0"):
        simulate({**KEYS, **keys}, output_dir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_in_parallel_the_trunk_gets_three_images_at_once(tmp_path: Path) -> None:
    keys = {**KEYS, "output-dir": str(tmp_path), "model.name": f"{MODELS}:make_norm_in_trunk"}
    result = simulate(keys, strategy="parallel")
    assert [row["failed_clients"] for row in result.rounds] == [[], []]
    with pytest.raises(ConfigError, match="client 0"):
        simulate(keys, strategy="sflv2")


def test_centralized_counts_the_images_of_all(tmp_path: Path) -> None:
    """Break it: leave `last-batch` out of the pooled batches."""
    keys = {**KEYS, "output-dir": str(tmp_path), "model.name": f"{MODELS}:make_norm_in_bottom"}
    for last, examples in (("keep", 75), ("merge", 75), ("drop", 72)):  # nine batches and 3 images
        result = simulate(keys, strategy="centralized", last_batch=last)
        assert [row["num_examples"] for row in result.rounds] == [2 * examples] * 2
    with pytest.raises(ConfigError, match="the 73 training images of all clients together"):
        simulate(keys, strategy="centralized", **{"data.max-train-samples": 73})


@pytest.mark.parametrize(("last", "examples"), [("merge", 25), ("drop", 24)])
@pytest.mark.parametrize("strategy", ["sflv1", "sflv2", "full"])
def test_batch_norm_trains_where_the_last_batch_is_merged_or_dropped(
    strategy: str, last: str, examples: int, tmp_path: Path
) -> None:
    """Break it: allow `batch-size` images in a step on the wire, whatever the last batch has."""
    keys = {**KEYS, "model.name": f"{MODELS}:make_norm_in_bottom", "output-dir": str(tmp_path)}
    result = simulate(keys, strategy=strategy, last_batch=last)
    assert [row["failed_clients"] for row in result.rounds] == [[], []]
    assert [row["num_examples"] for row in result.rounds] == [3 * 2 * examples] * 2


@pytest.mark.slow
@pytest.mark.parametrize("last", ["merge", "drop"])
def test_sflv1_equals_full_whatever_happens_to_the_last_batch(run: Run, last: str) -> None:
    """Break it: let `full` and the split strategies cut their batches differently."""
    split, full = (run(last_batch=last, strategy=strategy) for strategy in ("sflv1", "full"))
    assert [r["num_examples"] for r in split.rounds] == [r["num_examples"] for r in full.rounds]
    assert distance(weights(split), weights(full)) < 1e-5
    assert distance(weights(split), weights(run())) > 1e-5
    trained = split.rounds[0]["num_examples"]
    kept = run().rounds[0]["num_examples"]
    assert trained == kept if last == "merge" else trained < kept
    assert trained % (TINY["batch-size"] if last == "drop" else 1) == 0
