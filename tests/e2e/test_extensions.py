"""A researcher's own strategy, aggregator, codec and defence: both engines do the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit import Config, simulate
from fedsplit.data.shards import load_shard
from fedsplit.models.loading import input_spec
from tests.e2e.flower import ONE_ACTOR, Flower
from tests.e2e.runs import APP_DIR, UNEVEN, RunFiles, assert_same_weights

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

EXTENDED = UNEVEN | {
    "strategy": "tests.extensions.local_loss:LocalLoss",
    "codec.uplink": "tests.extensions.int8:Int8",
    "defence.name": "tests.extensions.noise:Noise",
    "aggregation.name": "tests.strategies.own:Slowing",
    "aggregation.options": "step = 0.5",
}


def test_extensions_end_with_the_same_bits_bytes_and_metric_in_both_engines(
    flower: Flower, tmp_path: Path
) -> None:
    """Break it: leave the rule's metrics out of the client's reply, or draw noise by the process.

    The extensions are no part of the app that Flower ships to its processes: they import them
    from the checkout, as a researcher's own package from wherever it is installed.
    """
    config = EXTENDED | {"output-dir": str(tmp_path)}
    run = flower.run(
        APP_DIR,
        federation=f"num-supernodes=2 {ONE_ACTOR}",
        run_config=config | {"run-name": "there"},
        pythonpath=APP_DIR,
    )
    assert run.completed, run.output
    here = RunFiles.read(simulate(config, num_clients=2, run_name="here").run_dir)

    there = RunFiles.read(tmp_path / "there")
    assert_same_weights(there.weights, here.weights)
    assert there.num_bytes == here.num_bytes
    assert [row["failed_clients"] for row in there.rounds] == [[], []]
    sent = [row["sent_batches"] for row in there.rounds]
    assert sent == [row["sent_batches"] for row in here.rounds] == [_every_second_batch()] * 2
    assert there.summary["sent_batches"] == here.summary["sent_batches"] == sum(sent)


def _every_second_batch() -> int:
    """Return how many batches two clients send in a round: the first, the third, ..."""
    config = Config.load(EXTENDED)
    shards = [load_shard(config, client, 2, input_spec("vit-nano")) for client in (0, 1)]
    batches = [-(-len(shard.train) // config.batch_size) for shard in shards]
    return sum(-(-count // 2) for count in batches)
