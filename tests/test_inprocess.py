from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.serverapp.strategy import FedAvg
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsplit import Config, Result, load_split_model, simulate
from fedsplit.client_app import app as client_app
from fedsplit.data.loader import Images, batches
from fedsplit.data.shards import load_shard, load_test
from fedsplit.errors import ConfigError, RunError
from fedsplit.models.loading import input_spec, load_model
from fedsplit.seeding import generator, seeded_init
from fedsplit.split.client import SplitSession
from tests.conftest import TINY, Run, distance, weights

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[1]
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
    timed = ("seconds", "run_directory", "per_second")
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
    with pytest.raises(RunError, match=r"Bulyan makes nothing of the 4 contr.*num-malicious"):
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
    with pytest.raises(RunError, match=r"FedAvg makes in round 1 have NaN.*lower learning-rate"):
        simulate(tiny)


def test_one_client_equals_a_plain_training_loop(run: Run, plain_threads: None) -> None:
    result = run(num_clients=1)
    config = Config.load(TINY, {"num-clients": 1})
    with seeded_init(config.seed, "model"):
        model = load_model("vit-nano", num_labels=10).train()
    images = load_shard(config, 0, 1, input_spec("vit-nano")).train
    for server_round in (1, 2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for epoch in (0, 1):
            order = generator(config.seed, "batches", server_round, 0, epoch)
            for indices in batches(len(images), 8, generator=order):
                pixels, labels = images.batch(indices)
                optimizer.zero_grad()
                torch.autograd.backward(cross_entropy(model(pixels).logits, labels))
                optimizer.step()

    assert len(images) == 144
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
        "shards.json",
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


class _Sabotage:
    """Make one client fail, at one of its steps, in one round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, size: int, step: int) -> None:
        original, self.steps = Images.batch, 0

        def batch(images: Images, indices: Tensor) -> tuple[Tensor, Tensor]:
            if len(images) == size:
                self.steps += 1
                if self.steps > step:
                    raise ValueError("the disk of this client has gone")
            return original(images, indices)

        monkeypatch.setattr(Images, "batch", batch)


def _sizes(**overrides: object) -> list[int]:
    config = Config.load(TINY, overrides)
    spec = input_spec("vit-nano")
    return [len(load_shard(config, client, 4, spec).train) for client in range(4)]


def _without(client: int, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, object]) -> Result:
    """Run one round in which a client was never asked."""
    from strategies.clients import Clients

    def sample(self: Clients, fraction: float, seed: int, *names: str | int) -> list[int]:
        return [other for other in self.node_ids if other != client]

    with monkeypatch.context() as patch:
        patch.setattr(Clients, "sample", sample)
        return simulate(tiny, num_server_rounds=1)


@pytest.mark.parametrize("strategy", ["sflv2", "parallel"])
def test_clients_that_cannot_all_be_connected_end_the_run_with_the_setting(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """As under a bare ``flwr run``. Break it: leave out the meeting, and the first round hangs."""
    monkeypatch.setattr("fedsplit.inprocess.clients_at_once", lambda config: 2)
    with pytest.raises(ConfigError) as caught:
        simulate(tiny, strategy=strategy, channel_join_timeout=0.5)
    for part in (
        f"strategy = '{strategy}' trains all 4 participants",
        "only 2 could be connected",
        "channel.join-timeout = 0.5 seconds",
        "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=4",
    ):
        assert part in str(caught.value)
    assert not list(Path(str(tiny["output-dir"])).glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3])
def test_a_client_that_raises_leaves_the_others_whole(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    sizes = _sizes()
    assert len(set(sizes)) == 4
    expected = _without(2, monkeypatch, tiny)
    _Sabotage(monkeypatch, size=sizes[2], step=step)

    result = simulate(tiny, num_server_rounds=1, max_concurrent_clients=4)

    assert result.rounds[0]["failed_clients"] == [2]
    assert result.summary["failed_clients"] == 1
    assert result.rounds[0]["num_examples"] == 2 * (sum(sizes) - sizes[2])
    one, other = weights(expected), weights(result)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.slow
def test_a_client_whose_stream_dies_is_left_out(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _without(0, monkeypatch, tiny)
    original = SplitSession.finish
    first: list[object] = []

    def finish(session: SplitSession) -> None:
        if not first:  # one at a time: client 0 comes first
            first.append(session)
            raise ConnectionError("the line has gone")
        original(session)

    monkeypatch.setattr(SplitSession, "finish", finish)
    result = simulate(tiny, num_server_rounds=1, max_concurrent_clients=1)

    assert result.rounds[0]["failed_clients"] == [0]
    one, other = weights(expected), weights(result)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def _spoil(reply: Message, fault: str) -> None:
    content = reply.content
    arrays = content.array_records["arrays"].to_torch_state_dict()
    name = "vit.embeddings.position_embeddings"
    if fault == "nan":
        arrays[name][0, 0, 0] = float("nan")
    elif fault == "missing":
        del arrays[name]
    elif fault == "count":
        content.metric_records["metrics"]["num-examples"] = 1
    content["arrays"] = ArrayRecord(arrays)


@pytest.mark.slow
def test_replies_that_are_not_what_was_asked_for_are_left_out(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _without(1, monkeypatch, tiny)
    faults = ["nan", "missing", "count"]  # the others: tests/strategies/test_replies.py
    for fault in faults:

        def spoiled(message: Message, context: Context, fault: str = fault) -> Message:
            reply = client_app(message, context)
            is_train = message.metadata.message_type == "train"
            if is_train and context.node_config["partition-id"] == 1:
                _spoil(reply, fault)
            return reply

        monkeypatch.setattr("fedsplit.inprocess.client_app", spoiled)
        result = simulate(tiny, num_server_rounds=1)

        assert result.rounds[0]["failed_clients"] == [1], fault
        assert distance(weights(expected), weights(result)) == 0.0, fault


def test_no_client_left_is_a_failed_run(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_step(*_: object) -> None:
        raise ValueError("no client can train")

    monkeypatch.setattr(SplitSession, "train_step", train_step)
    with pytest.raises(RunError, match=r"Every participant of round 1 failed.*no client can train"):
        simulate(tiny)


@pytest.mark.slow
def test_a_client_that_cannot_evaluate_leaves_only_its_share_out(
    tiny: dict[str, object], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [
        len(load_shard(Config.load(TINY), c, 4, input_spec("vit-nano")).validation)
        for c in range(4)
    ]
    original = SplitSession.evaluate_step
    broken: list[SplitSession] = []

    def evaluate_step(session: SplitSession, *batch: Tensor) -> object:
        if not broken or session in broken:  # one at a time: client 0 comes first
            broken.append(session)
            raise ValueError("this client cannot evaluate")
        return original(session, batch[0], batch[1])

    monkeypatch.setattr(SplitSession, "evaluate_step", evaluate_step)
    result = simulate(tiny, max_concurrent_clients=1, num_server_rounds=1)
    whole = run()

    assert min(sizes) > 0
    assert result.rounds[0]["failed_clients"] == []
    assert result.rounds[0]["train_loss"] == whole.rounds[0]["train_loss"]
    assert result.rounds[0]["test_loss"] == whole.rounds[0]["test_loss"]
    assert result.rounds[0]["validation_loss"] not in (None, whole.rounds[0]["validation_loss"])


@pytest.mark.slow
def test_evaluation_may_fail_altogether_or_be_left_out(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = simulate(tiny, fraction_evaluate=0.0, num_server_rounds=1)

    def evaluate_step(*_: object) -> None:
        raise ValueError("nobody can evaluate")

    monkeypatch.setattr(SplitSession, "evaluate_step", evaluate_step)
    failed = simulate(tiny, num_server_rounds=1)

    for result in (without, failed):
        assert result.rounds[0]["validation_accuracy"] is None
        assert result.rounds[0]["test_accuracy"] is not None
    assert distance(weights(without), weights(failed)) == 0.0


def test_overrides_are_dotted_or_underscored(tiny: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"split\.cut-layer = 0"):
        simulate(tiny, **{"split.cut-layer": 0})
    with pytest.raises(ConfigError, match=r"split\.cut-layer = 0"):
        simulate(tiny, split_cut_layer=0)


MANY = """
import json, sys
from benchmarks.participants import peak_bytes
from fedsplit import simulate
keys = {"num-clients": 200, "num-server-rounds": 1, "batch-size": 16, "data.max-test-samples": 20}
keys |= {"channel.join-timeout": 600.0, "fraction-evaluate": 0.05}  # a busy machine is slow
found = {}
for name in ["sflv1", "sflv3", "sequential", "full", "sflv2", "parallel"]:
    result = simulate(keys, strategy=name, output_dir=sys.argv[1])
    found[name] = [peak_bytes(), result.rounds[0]["num_participants"]]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_participants_fit_into_two_gigabytes(tmp_path: Path) -> None:
    """Every strategy, in a process of their own, so that its peak is theirs alone.

    They follow each other in one process, which loads the images once: what is seen of one is the
    peak of it and those before it. Break it: compute `parallel`'s steps in one piece.
    """
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for strategy, (peak_bytes, participants) in json.loads(done.stdout.splitlines()[-1]).items():
        assert participants == 200
        assert peak_bytes < 2e9, strategy
    assert len(re.findall(r"samples/s, \d+ ms per client-round", done.stderr + done.stdout)) == 6
