from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg
from torch.nn.functional import cross_entropy

from fedsplit import Config, load_split_model, simulate
from fedsplit.data.shards import load_shard, load_test
from fedsplit.errors import ConfigError, RunError
from fedsplit.exchanged_state import tensors_digest
from fedsplit.models.checkpoint import save_model
from fedsplit.models.loading import input_spec, load_model
from fedsplit.seeding import seeded_init
from tests.conftest import TINY, Run, distance, weights
from tests.strategies import by_hand

pytestmark = pytest.mark.usefixtures("undrawn")

CONTRACT = {
    *("strategy", "model", "dataset", "partitioner", "num_clients", "num_rounds", "seed"),
    *("engine", "cut_layer", "final_accuracy", "final_loss", "best_accuracy"),
    *("cut_uplink_bytes", "cut_downlink_bytes", "sync_uplink_bytes", "sync_downlink_bytes"),
    *("client_parameters", "server_parameters", "client_flops_per_sample"),
    *("client_trainable_parameters", "server_trainable_parameters"),
    *("server_flops_per_sample", "client_memory_bytes", "server_memory_bytes"),
    *("wall_seconds", "train_samples_per_second"),
}


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_sflv1_equals_full_over_three_rounds(run: Run, cut: int) -> None:
    split = run(num_server_rounds=3, split_cut_layer=cut)
    full = run(num_server_rounds=3, strategy="full")

    assert len({row["num_examples"] for row in split.rounds}) == 1
    assert [r["num_examples"] for r in split.rounds] == [r["num_examples"] for r in full.rounds]
    assert distance(weights(split), weights(full)) < 1e-5
    assert split.summary["final_loss"] == pytest.approx(full.summary["final_loss"], abs=1e-5)


@pytest.mark.slow
def test_sflv1_equals_full_with_partial_participation(run: Run) -> None:
    split = run(num_server_rounds=3, fraction_train=0.5)
    full = run(num_server_rounds=3, fraction_train=0.5, strategy="full")

    assert [row["num_participants"] for row in split.rounds] == [2, 2, 2]
    # Other clients take part in other rounds, and their shards are unequal.
    assert len({row["num_examples"] for row in split.rounds}) > 1
    assert [r["num_examples"] for r in split.rounds] == [r["num_examples"] for r in full.rounds]
    assert distance(weights(split), weights(full)) < 1e-5


def test_the_summary_has_the_sizes_of_all_splits(run: Run) -> None:
    summary = run().summary
    assert (
        summary["num_train_examples"] + summary["num_validation_examples"]
        == TINY["data.max-train-samples"]
    )
    assert summary["num_train_examples"] * TINY["local-epochs"] == run().rounds[0]["num_examples"]
    assert summary["num_test_examples"] == 50


def test_the_summary_says_which_weights_a_run_began_with(run: Run, tmp_path: Path) -> None:
    drawn = run(num_server_rounds=1)
    assert drawn.summary["pretrained"] is False
    assert run(num_server_rounds=1, seed=8).summary["weights_sha256"] not in (
        drawn.summary["weights_sha256"],
        None,
    )
    save_model(load_model("vit-nano"), input_spec("vit-nano"), tmp_path / "saved")
    keys: dict[str, Any] = {"model_name": str(tmp_path / "saved"), "num_server_rounds": 1}
    one, two = run(**keys).summary, run(**keys, seed=8, strategy="full").summary
    assert one["pretrained"] is two["pretrained"] is True
    assert one["weights_sha256"] == two["weights_sha256"] != drawn.summary["weights_sha256"]


def test_the_summary_says_which_weights_a_run_has_ended_with(run: Run) -> None:
    """Break it: leave out the classifier, as the digest of the initial weights does."""
    one, other = run(num_server_rounds=1), run(num_server_rounds=1, seed=8)
    again, whole = run(num_server_rounds=1), run(num_server_rounds=1, split_cut_layer=2)
    digests = [found.summary["final_weights_sha256"] for found in (one, again, other, whole)]
    assert digests[0] == digests[1] == tensors_digest(one.model.merge().state_dict())
    assert len({*digests}) == 3
    head = {k: v for k, v in one.model.merge().state_dict().items() if "classifier" not in k}
    assert tensors_digest(head) != digests[0]


def test_training_changes_every_weight_it_should(run: Run) -> None:
    with seeded_init(7, "model"):
        before = load_model("vit-nano", num_labels=10).state_dict()
    after = weights(run())

    still = [name for name in before if torch.equal(before[name], after[name])]
    assert [name for name in still if not name.endswith("key.bias")] == []


@pytest.mark.slow
@pytest.mark.parametrize("concurrent", [1, 4])
def test_bits_do_not_depend_on_concurrency_or_repetition(run: Run, concurrent: int) -> None:
    first, second = run(), run(again=True, max_concurrent_clients=concurrent)

    one, other = weights(first), weights(second)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    timed = ("seconds", "run_directory", "per_second", "started_at", "commit")
    for summary in (first.summary, second.summary):
        assert summary["cut_uplink_bytes"] > 0
    same = [key for key in first.summary if not any(word in key for word in timed)]
    assert {k: first.summary[k] for k in same} == {k: second.summary[k] for k in same}


def test_another_seed_gives_another_model(run: Run) -> None:
    assert distance(weights(run()), weights(run(seed=8))) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", ["FedAdam", "FedMedian", "FedAvgM", "Krum", "QFedAvg"])
def test_other_aggregators_run(run: Run, aggregator: str) -> None:
    given = {"FedAdam": "eta = 0.01", "QFedAvg": "client-learning-rate = 0.02"}
    options = given.get(aggregator, "")
    result = run(aggregation_name=aggregator, aggregation_options=options)

    assert [row["failed_clients"] for row in result.rounds] == [[], []]
    # All of Flower's aggregators leave the count alone, though some empty the replies.
    assert result.summary["sync_uplink_bytes"] == result.summary["sync_downlink_bytes"] > 1000
    final = weights(result)
    assert {tensor.dtype for tensor in final.values()} == {torch.float32}
    assert all(bool(tensor.isfinite().all()) for tensor in final.values())


def test_an_aggregator_that_makes_nothing_of_a_round_ends_the_run(tiny: dict[str, object]) -> None:
    """Flower would go on with the old bottom, beside the new server part."""
    with pytest.raises(RunError, match=r"Bulyan returns no weights for the 4 contr.*options"):
        simulate(tiny, aggregation_name="Bulyan", aggregation_options="num-malicious-nodes = 1")


def test_an_aggregator_that_makes_infinite_weights_ends_the_run(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FedAvg.aggregate_train

    def spoiled(self: FedAvg, server_round: int, replies: list[Message]) -> object:
        arrays, metrics = original(self, server_round, replies)
        # Finite in float64, as some aggregators compute, and infinite in float32.
        huge = {n: Array(a.numpy().astype("float64") + 1e300) for n, a in (arrays or {}).items()}
        return ArrayRecord(huge), metrics

    monkeypatch.setattr(FedAvg, "aggregate_train", spoiled)
    with pytest.raises(RunError, match=r"FedAvg computes in round 1 hold NaN.*lower learning-rate"):
        simulate(tiny)


def test_one_client_equals_a_plain_training_loop(run: Run, plain_threads: None) -> None:
    result = run(num_clients=1)
    images = load_shard(Config.load(TINY), 0, 1, input_spec("vit-nano")).train
    model = by_hand.initial_parts().merge()
    for server_round in by_hand.ROUNDS:
        optimizer = by_hand.sgd(model)
        for pixels, labels in by_hand.batches_of(images, 0, server_round):
            loss = cross_entropy(by_hand.logits_of(model(pixels)), labels)
            by_hand.descend(loss, optimizer)

    assert len(images) == 101
    assert distance(weights(result), model.state_dict()) < 1e-6


def test_result_and_run_directory_hold_the_contract(run: Run) -> None:
    result = run(drawn=True)

    lines = (result.run_dir / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.rounds
    assert [row["round"] for row in result.rounds] == [1, 2]
    assert json.loads((result.run_dir / "summary.json").read_text()) == result.summary
    assert set(result.summary) >= CONTRACT
    assert [key for key in CONTRACT if result.summary[key] is None] == []
    assert result.summary["engine"] == "inprocess"
    assert result.run_dir.is_absolute()
    again = Config.load(result.run_dir / "config.toml")
    assert again == Config.load(TINY, {"output-dir": again.output_dir})
    for key in ("cut_uplink_bytes", "cut_downlink_bytes", "sync_uplink_bytes"):
        assert result.summary[key] == sum(row[key] for row in result.rounds) > 0
    unknown = {key for row in result.rounds for key in row if row[key] is None}
    assert unknown == {"simulated_communication_seconds"}  # no profile was given
    assert all(math.isfinite(row["validation_loss"]) for row in result.rounds)
    assert {path.name for path in result.run_dir.iterdir()} == {
        *("config.toml", "rounds.jsonl", "summary.json", "model", "rounds.png", "shards.png"),
        "log.txt",
        *("shards.json", "start.json", "process.json", "resume.toml", "checkpoints", "best"),
        ".lock",
        "clients.jsonl",
    }


def test_full_has_no_cut_traffic(run: Run) -> None:
    full, split = run(num_server_rounds=3, strategy="full").summary, run().summary

    assert full["cut_layer"] is None
    assert full["cut_uplink_bytes"] == full["cut_downlink_bytes"] == 0
    assert full["server_parameters"] == full["server_flops_per_sample"] == 0
    assert full["client_parameters"] == split["client_parameters"] + split["server_parameters"]


def test_the_saved_model_is_the_result(run: Run, plain_threads: None) -> None:
    result = run()
    bottom, trunk, top = loaded = load_split_model(str(result.run_dir / "model"), [1])

    kept, saved = weights(result), loaded.merge().state_dict()
    assert set(kept) == set(saved)
    assert [name for name in kept if not torch.equal(kept[name], saved[name])] == []

    images = load_test(Config.load(TINY), input_spec("vit-nano"))
    pixels, labels = images.batch(torch.arange(len(images)))
    with torch.no_grad():
        logits = top(trunk(bottom(pixels)))
    assert (logits.argmax(-1) == labels).float().mean().item() == pytest.approx(
        result.summary["final_accuracy"], abs=1e-7
    )
    assert cross_entropy(logits, labels).item() == pytest.approx(
        result.summary["final_loss"], abs=1e-6
    )


def test_a_run_directory_that_exists_is_left_alone(tiny: dict[str, object]) -> None:
    taken = Path(str(tiny["output-dir"])) / "mine"
    taken.mkdir(parents=True)

    with pytest.raises(ConfigError, match=r"mine.*exists already"):
        simulate(tiny, run_name="mine")

    assert list(taken.iterdir()) == []


def test_overrides_are_dotted_or_underscored(tiny: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"split\.cut-layer = 0"):
        simulate(tiny, **{"split.cut-layer": 0})
    with pytest.raises(ConfigError, match=r"split\.cut-layer = 0"):
        simulate(tiny, split_cut_layer=0)


def test_files_of_a_run_can_be_read_as_the_umask_says(tiny: dict[str, object]) -> None:
    """Break it: leave the mode to safetensors, which lets only the owner read."""
    before = os.umask(0o027)
    try:
        run_dir = simulate({**tiny, "strategy": "sflv3", "num-server-rounds": 1}).run_dir
    finally:
        os.umask(before)
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} >= {"model", "checkpoints", "clients"}
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}
