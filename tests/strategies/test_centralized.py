from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context
from torch.nn.functional import cross_entropy

from fedsplit import Config, simulate
from fedsplit.data.loader import batches
from fedsplit.data.shards import load_pool
from fedsplit.models.loading import input_spec
from fedsplit.seeding import generator
from tests.conftest import TINY, Run, distance, weights
from tests.data.pictures import image_folder
from tests.strategies import by_hand

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]


def test_centralized_is_a_plain_loop_over_everyones_images(run: Run, plain_threads: None) -> None:
    """Break it: make a new optimizer in each round; its momentum is lost."""
    images = load_pool(Config.load(TINY), len(by_hand.CLIENTS), input_spec("vit-nano"))
    whole = by_hand.initial_parts().merge()
    optimizer = by_hand.sgd(whole)
    for server_round in by_hand.ROUNDS:
        for epoch in by_hand.EPOCHS:
            order = generator(by_hand.SEED, "pooled batches", server_round, epoch)
            for indices in batches(len(images), 8, generator=order):
                pixels, labels = images.batch(indices)
                loss = cross_entropy(by_hand.logits_of(whole(pixels)), labels)
                by_hand.descend(loss, optimizer)
    result = run(strategy="centralized")
    assert distance(weights(result), whole.state_dict()) < 1e-6
    assert [row["num_examples"] for row in result.rounds] == [2 * len(images)] * 2
    assert result.summary["sync_uplink_bytes"] == result.summary["cut_uplink_bytes"] == 0
    assert result.summary["client_parameters"] == 0 < result.summary["server_parameters"]
    assert all(row["validation_accuracy"] is not None for row in result.rounds)


def test_images_are_counted_as_the_pool_has_them_not_as_a_site_with_others_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break it: record what the clients have described; the pool trains on the server's images."""
    own = image_folder(tmp_path / "own", {"Trouser": 9, "Dress": 8})

    def with_own_images(*, node_config: dict[str, Any], **arguments: Any) -> Context:  # noqa: ANN401
        if node_config["partition-id"] == 1:
            node_config = {**node_config, "data-path": str(own)}
        return Context(node_config=node_config, **arguments)

    monkeypatch.setattr("fedsplit.inprocess.Context", with_own_images)
    keys = {**TINY, "output-dir": str(tmp_path), "num-server-rounds": 1, "local-epochs": 1}
    result = simulate(keys, strategy="centralized")
    images = load_pool(Config.load(TINY), len(by_hand.CLIENTS), input_spec("vit-nano"))
    assert result.rounds[0]["num_examples"] == len(images)
    assert result.summary["num_train_examples"] == len(images)
    shards = json.loads((result.run_dir / "shards.json").read_text())
    assert sum(map(sum, shards["class_counts"])) == len(images)
    said = capsys.readouterr().err
    assert (
        "images of data.name only, not on others that sites hold. These differ: client 1." in said
    )
