from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict

from fedsplit.client_app import app
from fedsplit.config import Config
from fedsplit.data.shards import load_shard
from fedsplit.flower_internals import task_identity
from fedsplit.messages import Instructions
from fedsplit.models.loading import input_spec, load_model
from fedsplit.models.split import join_parts, split_model
from fedsplit.references import reference_to
from fedsplit.seeding import seeded_init
from fedsplit.split.client_rules import WholeModel
from tests.conftest import TINY
from tests.data.pictures import image_folder

pytestmark = pytest.mark.usefixtures("plain_threads")


def _ask(
    kind: str,
    *,
    partition_id: object = 1,
    weights: dict[str, torch.Tensor] | None = None,
    class_names: Sequence[str] = (),
    images: str = "",
    keys: Mapping[str, object] = MappingProxyType({}),
    **node: str | int,
) -> Message:
    told = Instructions(
        run="a run",
        num_clients=4,
        num_labels=len(class_names) or 10,
        class_names=list(class_names),
        images=images,
        server_round=1,
        client_rule=reference_to(WholeModel),
    )
    content = RecordDict({"config": told.to_record()})
    if weights is not None:
        content["arrays"] = ArrayRecord(weights)
    context = Context(
        run_id=0,
        node_id=1,
        node_config=node | ({} if partition_id is None else {"partition-id": partition_id}),  # type: ignore[arg-type]
        state=RecordDict(),
        run_config=Config.load(TINY, keys).to_flat(),
    )
    with task_identity():
        return app(Message(content, 1, kind), context)


def _whole() -> dict[str, torch.Tensor]:
    with seeded_init(1, "model"):
        model = load_model("vit-nano", num_labels=10)
    return dict(join_parts(*split_model(model, [1])).state_dict())


def test_describe_counts_the_training_images() -> None:
    answer = _ask("query.describe").content.config_records["config"]
    shard = load_shard(Config.load(TINY), 1, 4, input_spec("vit-nano"))
    assert answer["partition-id"] == 1
    assert answer["class-counts"] == torch.bincount(shard.train.labels, minlength=10).tolist()


def test_a_client_too_many_says_so_without_data() -> None:
    answer = _ask("query.describe", partition_id=4).content.config_records["config"]
    assert (answer["partition-id"], answer["class-counts"]) == (4, [0] * 10)


@pytest.mark.parametrize("name", ["/only/at/the/server", "somebody/of-the-hub"])
def test_a_sites_classes_are_those_of_the_run_wherever_its_images_are(
    tmp_path: Path, name: str
) -> None:
    """A site lacks a class, and `data.name` is not there. Break it: take its own numbers."""
    node: dict[str, Any] = {"data-path": str(image_folder(tmp_path, {"cat": 20, "mouse": 10}))}
    keys = {"data.name": name, "data.validation-fraction": 0.0}
    names = ["cat", "dog", "mouse"]
    reply = _ask("query.describe", class_names=names, keys=keys, **node)
    assert reply.content.config_records["config"]["class-counts"] == [20, 0, 10]
    lacking = ["cat", "dog", "horse"]
    reply = _ask("query.describe", class_names=lacking, keys=keys, **node)
    assert "has classes that the run does not know: mouse" in str(reply.error.reason)


def test_a_client_that_would_make_other_images_than_the_server_is_refused() -> None:
    """Its model has another preprocessor_config.json. Break it: compare the weights alone."""
    ours = input_spec("vit-nano")
    assert not _ask("query.describe", images=str(ours)).has_error()
    for kind in ("query.describe", "train", "evaluate"):
        reply = _ask(kind, weights=_whole(), images=str(replace(ours, mean=(0.25,))))
        reason = str(reply.error.reason)
        assert "This client would give the model 'vit-nano' other images than the server" in reason
        assert "mean=(0.5,)" in reason
        assert "mean=(0.25,)" in reason


@pytest.mark.parametrize("partition_id", [None, -1, "1"])
def test_a_node_without_a_partition_says_how_to_give_it_one(partition_id: object) -> None:
    reply = _ask("query.describe", partition_id=partition_id)
    assert reply.has_error()
    said = "partition-id: must be set" if partition_id is None else f"= {partition_id!r}: must be"
    assert said in str(reply.error.reason)
    assert "--node-config 'partition-id=0'" in str(reply.error.reason)


def test_a_nodes_own_device_comes_before_that_of_the_run() -> None:
    """Break it: leave the node's device out of the config in `_Client`."""
    reply = _ask("train", weights=_whole(), device="cuda:77")
    assert reply.has_error()
    assert "device = 'cuda:77' cannot be used here" in str(reply.error.reason)
    assert not _ask("train", weights=_whole(), device="cpu").has_error()


def test_training_repeats_and_returns_what_it_was_given_trained() -> None:
    weights = _whole()
    first, second = (_ask("train", weights=weights) for _ in range(2))
    size = len(load_shard(Config.load(TINY), 1, 4, input_spec("vit-nano")).train)

    one = first.content.array_records["arrays"].to_torch_state_dict()
    other = second.content.array_records["arrays"].to_torch_state_dict()
    assert set(one) == set(weights)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], weights[name]) for name in one)
    assert first.content.metric_records["metrics"]["num-examples"] == 2 * size


def test_evaluation_returns_scores_only() -> None:
    reply = _ask("evaluate", weights=_whole())
    size = len(load_shard(Config.load(TINY), 1, 4, input_spec("vit-nano")).validation)
    assert list(reply.content) == ["metrics"]
    metrics = reply.content.metric_records["metrics"]
    assert metrics["num-examples"] == size > 0
    assert metrics["loss"] == pytest.approx(2.3, abs=0.3)  # ten classes, nothing learnt


def test_weights_of_another_model_are_refused() -> None:
    weights = _whole()
    weights.popitem()
    reply = _ask("train", weights=weights)
    assert reply.has_error()
    assert str(reply.error.reason).startswith("RuntimeError: ")
    assert "Missing key" in str(reply.error.reason)


@pytest.mark.parametrize("simulated", [False, True])
def test_a_site_prints_its_own_fault_and_a_simulation_leaves_it_to_the_server(
    capfd: pytest.CaptureFixture[str], *, simulated: bool
) -> None:
    """Break it: tell only the server, and the site shows a success."""
    node: dict[str, Any] = {"data-path": "/nowhere"}
    if simulated:
        node["num-partitions"] = 4
    reason = _ask("query.describe", **node).error.reason
    said = capfd.readouterr().err
    assert (f"fedsplit: {reason}" in said) == (not simulated)
