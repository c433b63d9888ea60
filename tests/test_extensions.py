"""What a researcher adds: each in one file outside fedsplit, named as package.module:name.

The same extensions together under Flower's engine are in tests/e2e/test_extensions.py.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from fedsplit import inprocess, simulate
from fedsplit.boundary import each
from fedsplit.errors import ConfigError, RunError
from fedsplit.serving import Engine, open_grpc
from fedsplit.split.client_rules import SplitClient
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.local import BatchLoss
from strategies.sflv1 import SFLV1
from tests.conftest import Run, distance, weights
from tests.extensions import measured

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]

EXTENSIONS = {
    "local loss": {"strategy": "tests.extensions.local_loss:LocalLoss"},
    "int8": {"codec.uplink": "tests.extensions.int8:Int8"},
    "int8 both ways": {
        "codec.uplink": "tests.extensions.int8:Int8",
        "codec.downlink": "tests.extensions.int8:Int8",
        "split.topology": "u-shaped",
    },
    "metric": {"strategy": "tests.extensions.measured:Measured"},
    "noise": {"defence.name": "tests.extensions.noise:Noise"},
}


@pytest.mark.parametrize("keys", EXTENSIONS.values(), ids=EXTENSIONS)
def test_an_extension_gives_the_same_bits_and_bytes_with_and_without_a_wire(
    run: Run, tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, keys: dict[str, object]
) -> None:
    """Break it: seed the noise by the clock, or count bytes before encoding."""
    direct = run(**keys)
    monkeypatch.setattr(inprocess, "IN_PROCESS", Engine("inprocess", open_grpc))
    wire = simulate(tiny, **keys)
    assert distance(weights(direct), weights(wire)) == 0.0
    assert all(math.isfinite(row["train_loss"]) for row in direct.rounds)
    assert [row["failed_clients"] for row in direct.rounds] == [[], []]
    for key in [key for key in direct.rounds[0] if key.endswith("_bytes")]:
        assert [row[key] for row in direct.rounds] == [row[key] for row in wire.rounds]


def test_local_loss_sends_no_gradient_down_and_half_of_the_batches_up(run: Run) -> None:
    """Break it: let the rule use the cut gradient."""
    local, plain = run(strategy="tests.extensions.local_loss:LocalLoss"), run()
    assert local.summary["cut_downlink_bytes"] < 0.05 * plain.summary["cut_downlink_bytes"]
    assert 0.4 < local.summary["cut_uplink_bytes"] / plain.summary["cut_uplink_bytes"] < 0.65
    for row, other in zip(local.rounds, plain.rounds, strict=True):
        assert row["num_examples"] == other["num_examples"]
        assert row["sync_uplink_bytes"] > other["sync_uplink_bytes"]  # the auxiliary head


def test_an_added_module_counts_in_the_clients_costs(run: Run) -> None:
    """Break it: leave `prepared.added` out of `costs`."""
    local, plain = run(strategy="tests.extensions.local_loss:LocalLoss"), run()
    head = 64 * 10 + 10  # weight and bias
    for key in ("client_parameters", "client_trainable_parameters"):
        assert local.summary[key] - plain.summary[key] == head
    # forward, gradient of the weight and gradient of the input: 2 FLOP for each of 64 x 10.
    flops = local.summary["client_flops_per_sample"] - plain.summary["client_flops_per_sample"]
    assert flops == 3 * 2 * 64 * 10
    assert local.summary["client_memory_bytes"] > plain.summary["client_memory_bytes"]
    # The norm before a block trains, so the server saves no product by not returning a gradient.
    assert local.summary["server_flops_per_sample"] == plain.summary["server_flops_per_sample"]
    assert sum(t.numel() for t in weights(local).values()) == sum(
        t.numel() for t in weights(plain).values()
    )  # the final model is without it


def test_with_h_infinite_the_server_part_stays_and_the_bottom_moves(run: Run) -> None:
    """Break it: take a step for a finished participant that sent nothing."""
    one = run(strategy="tests.extensions.local_loss:AllLocal", num_server_rounds=1)
    two = run(strategy="tests.extensions.local_loss:AllLocal")
    first, second = weights(one), weights(two)
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert moved
    assert all(name.startswith("vit.embeddings.") for name in moved)


def test_the_codec_alone_decides_the_bytes(run: Run) -> None:
    """A byte for each number and a float32 for each token of 64 numbers: 68 / 256 of float32."""
    coded, plain = run(**{"codec.uplink": "tests.extensions.int8:Int8"}), run()
    ratio = coded.summary["cut_uplink_bytes"] / plain.summary["cut_uplink_bytes"]
    assert ratio == pytest.approx(68 / 256, abs=0.02)
    assert coded.summary["cut_downlink_bytes"] == plain.summary["cut_downlink_bytes"]
    assert 0 < distance(weights(coded), weights(plain)) < 0.1


def test_a_metric_of_each_client_reaches_rows_summary_table_and_report(
    tiny: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Break it: leave the rule's metrics out of `FederatedStrategy._note_train`."""
    from fedsplit.report.write import write_report
    from fedsplit.results.table import results_table

    result = simulate(tiny, strategy="tests.extensions.measured:Measured")
    lines = (result.run_dir / "rounds.jsonl").read_text().splitlines()
    norms = [json.loads(line)["smashed_norm"] for line in lines]
    assert len(norms) == 2
    assert all(1.0 < norm < 1000.0 for norm in norms)
    assert result.summary["smashed_norm"] == norms[-1]
    assert measured.NORM.label in results_table(result.summary)
    pages = {path.suffix: path.read_text() for path in write_report(result.run_dir)}
    for page in pages.values():
        assert measured.NORM.label in page


def test_noise_is_drawn_anew_for_each_batch_and_repeats_with_the_seed(run: Run) -> None:
    """Break it: draw by round and client alone; every batch of a client then gets one noise."""
    keys = {"defence.name": "tests.extensions.noise:Noise"}
    one, again, plain = run(**keys), run(again=True, **keys), run()
    assert distance(weights(one), weights(again)) == 0.0
    assert distance(weights(one), weights(plain)) > 0.0
    assert one.summary["cut_uplink_bytes"] == plain.summary["cut_uplink_bytes"]


def test_a_rule_that_measures_other_metrics_than_it_declares_fails_its_clients(
    tiny: dict[str, object],
) -> None:
    with pytest.raises(RunError, match=r"measures \['other'\], but its metrics declare"):
        simulate(tiny, strategy=f"{__name__}:Lying", num_server_rounds=1)


def test_an_update_rule_cannot_replace_what_the_ledger_counts(tiny: dict[str, object]) -> None:
    """Break it: note what it measures unseen; each round then has sent one byte."""
    with pytest.raises(ConfigError, match=r"_Counting measures \['cut_uplink_bytes'\]"):
        simulate(tiny, strategy=f"{__name__}:Counting", num_server_rounds=1)


class _Counting(PerParticipantCopies):
    def measured(self) -> dict[str, float]:
        return {"cut_uplink_bytes": 1.0}


class Counting(SFLV1):
    """Measures what is not its own."""

    update_rule = _Counting


class _LyingClient(measured.MeasuringClient):
    def measured(self) -> dict[str, float]:
        return {"other": 1.0}


class Lying(SFLV1):
    """Declares one metric and reports another."""

    client_rule = _LyingClient


def test_a_rule_that_sends_each_batch_twice_says_so(tiny: dict[str, object]) -> None:
    """Break it: leave `steps_per_batch` out of the bound of `Clients.work`."""
    declared = simulate(tiny, strategy=f"{__name__}:Twice")
    plain = simulate(tiny)
    assert [row["failed_clients"] for row in declared.rounds] == [[], []]
    for row, other in zip(declared.rounds, plain.rounds, strict=True):
        assert row["num_examples"] == other["num_examples"]
        assert row["cut_uplink_bytes"] == pytest.approx(2 * other["cut_uplink_bytes"], rel=0.01)
    with pytest.raises(RunError, match=r"make at most .*says how often with steps_per_batch\)"):
        simulate(tiny, strategy=f"{__name__}:TwiceUnsaid", num_server_rounds=1)


class _TwiceUnsaid(SplitClient):
    def train_step(self, images: Tensor, labels: Tensor) -> BatchLoss:
        self.session.train_step(each(self.smashed(images), Tensor.detach), labels)
        return super().train_step(images, labels)


class TwiceUnsaid(SFLV1):
    """Each batch trains the server part twice, which nobody knows."""

    client_rule = _TwiceUnsaid


class _Twice(_TwiceUnsaid):
    steps_per_batch = 2


class Twice(SFLV1):
    """The same, declared."""

    client_rule = _Twice
