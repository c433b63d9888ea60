"""Whole runs in which clients fail: each costs its own contribution, nothing more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from torch import Tensor

from fedsplit import Config, Result, inprocess, simulate
from fedsplit.channel.endpoint import SessionHost
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.tls import ClientTls
from fedsplit.client_app import app as client_app
from fedsplit.config import NodeConfig
from fedsplit.data.loader import Images
from fedsplit.data.shards import load_shard
from fedsplit.errors import ConfigError, RunError
from fedsplit.fields import BYTE_KEYS
from fedsplit.flower_internals import error_reply
from fedsplit.models.loading import input_spec
from fedsplit.results.run_directory import RunDirectory
from fedsplit.serving import Engine, open_grpc
from fedsplit.split.client import SplitSession
from tests.channel.certificates import Certificates
from tests.conftest import TINY, Run, distance, weights

pytestmark = pytest.mark.usefixtures("undrawn")


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
    """As under a bare ``flwr run``. Break it: leave out the rendezvous; the first round hangs."""
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


@pytest.mark.parametrize("strategy", ["sflv1", "sflv2", "sflv3", "sequential", "parallel", "full"])
def test_a_client_that_cannot_describe_itself_costs_its_own_share_only(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, strategy: str
) -> None:
    """Break it: end the run, or number the clients that are left anew."""
    expected = _without(2, monkeypatch, {**tiny, "strategy": strategy})

    def failing_app(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 2:
            return error_reply(message, "its disk is gone")
        return client_app(message, context)

    sites = replace(inprocess.IN_PROCESS, has_sites=lambda: True)
    there = {**tiny, "output-dir": str(tmp_path), "strategy": strategy}
    there["channel.join-timeout"] = 2.0  # the rendezvous waits for the client that does not come
    with monkeypatch.context() as patch:
        patch.setattr("fedsplit.inprocess.client_app", failing_app)
        with pytest.raises(RunError, match="A client cannot take part: node 3: its disk is gone"):
            simulate(there)
        patch.setattr(inprocess, "IN_PROCESS", sites)
        result = simulate(there, num_server_rounds=1)
        assert distance(weights(result), weights(expected)) == 0.0
        longer = simulate(resume=result.run_dir, num_server_rounds=2)
    assert longer.rounds[1]["num_participants"] == 3
    said = RunDirectory(result.run_dir).command_to_continue({})
    resume = result.run_dir / "resume.toml"
    assert said == f"flwr run . CONNECTION --stream --run-config {resume}"
    for key in (*BYTE_KEYS, "num_participants", "failed_clients", "test_loss"):
        assert result.rounds[0][key] == expected.rounds[0][key]
    log = (result.run_dir / "log.txt").read_text(encoding="utf-8")
    assert "Node 3 cannot take part: its disk is gone\n" in log
    assert "The run goes without client 2\n" in log
    again = simulate(resume=result.run_dir, num_server_rounds=3)  # its disk is back
    assert again.rounds[2]["num_participants"] == 4
    for key in ("num_train_examples", "num_validation_examples"):
        assert result.summary[key] == longer.summary[key] < again.summary[key]
        assert again.summary[key] == expected.summary[key]


@pytest.mark.parametrize("strategy", ["sflv2", "parallel"])
def test_a_client_whose_certificate_is_refused_is_left_out_before_the_first_round(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, strategy: str
) -> None:
    """Break it: blame too few clients at once, and keep what the client has found out."""
    made, settings = Certificates(tmp_path), {**tiny, "strategy": strategy}
    expected = _without(2, monkeypatch, settings)

    def open_channel(host: SessionHost, config: Config) -> GrpcChannel:
        tls = made.server(mutual=True)
        return GrpcChannel(host, address="127.0.0.1:0", tls=tls, max_streams=64)

    def client_tls(_: object, node: NodeConfig) -> ClientTls:
        return made.client("other/client-0" if node.partition_id == 2 else "client-0")

    monkeypatch.setattr(
        inprocess, "IN_PROCESS", Engine("inprocess", open_channel, has_sites=lambda: True)
    )
    monkeypatch.setattr("fedsplit.client_app.client_tls", client_tls)
    log = _log_of_a_round_without(expected, settings, tmp_path / "runs")
    assert "Node 3 (client 2) cannot take part: The split server at 127.0.0.1" in log
    assert "does not accept this client's certificate" in log


@pytest.mark.parametrize("strategy", ["sflv2", "parallel"])
def test_a_client_that_may_not_connect_there_is_left_out_before_the_first_round(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, strategy: str
) -> None:
    """Break it: keep what the client says about its own configuration from the server."""
    settings = {**tiny, "strategy": strategy}
    expected = _without(2, monkeypatch, settings)

    def misconfigured(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 2:
            context.node_config["channel-address"] = "127.0.0.1:9"
        return client_app(message, context)

    sites = Engine("inprocess", open_grpc, has_sites=lambda: True)
    monkeypatch.setattr(inprocess, "IN_PROCESS", sites)
    monkeypatch.setattr("fedsplit.inprocess.client_app", misconfigured)
    log = _log_of_a_round_without(expected, settings, tmp_path / "runs")
    assert "Node 3 (client 2) cannot take part: The server's message names the channel" in log
    assert "but channel-address = '127.0.0.1:9' in this client's --node-config" in log


def _log_of_a_round_without(expected: Result, settings: dict[str, object], output: Path) -> str:
    """Run a round, check that it ends with the expected weights, and return its log."""
    keys = {**settings, "output-dir": str(output), "channel.join-timeout": 4.0}
    result = simulate(keys, max_concurrent_clients=4, num_server_rounds=1)
    assert distance(weights(result), weights(expected)) == 0.0
    return (result.run_dir / "log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3])
def test_a_client_that_raises_leaves_the_others_whole(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    images = {"data.max-train-samples": 160}  # or two shards have the same size
    tiny, sizes = tiny | images, _sizes(**images)
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


BROKEN = """
from fedsplit.split.client_rules import SplitClient
from strategies.sflv1 import SFLV1

class Mistaken(SplitClient):
    def train_step(self, images, labels):
        return images.no_such_thing

class Strategy(SFLV1):
    client_rule = Mistaken
"""


def test_a_mistake_in_the_users_rule_is_named_once_with_its_line(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Break it: show each client's traceback, or name no line."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "mistaken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path / "app")
    with pytest.raises(RunError) as caught:
        run(strategy="mistaken:Strategy", run_name="one", output_dir=str(tmp_path))
    place = "app/mistaken.py, line 7, in train_step: AttributeError: "
    why = "'Tensor' object has no attribute 'no_such_thing'"
    assert str(caught.value).startswith(
        f"Every participant of round 1 failed. First: {place}{why}. No round is kept in"
    )
    shown = capsys.readouterr().err
    assert shown.count(place) == 1
    assert f"Clients 0, 1, 2, 3 are left out of round 1: {place}{why}\n" in shown
    assert "Traceback" not in shown
    log = (tmp_path / "one" / "log.txt").read_text()
    assert "Traceback" in log
    assert place in (tmp_path / "one" / "error.txt").read_text()
