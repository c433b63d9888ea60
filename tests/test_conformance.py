"""What no variant may get wrong, on whole runs: see docs/algorithms.md.

What holds for one algorithm only is in its own file in tests/strategies/. The same at the level of
single steps, with the order of updates replayed, is in tests/split/.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsplit import Config, simulate
from fedsplit.channel.direct import DirectStream
from fedsplit.channel.frame import Frame
from fedsplit.data.shards import load_shard
from fedsplit.models.loading import input_spec
from fedsplit.split.wire import CUT_PREFIX, OUTPUT_PREFIX
from tests.conftest import TINY, Run, distance, weights
from tests.strategies import by_hand

pytestmark = pytest.mark.usefixtures("undrawn")

SPLIT = ["sequential", "sflv1", "sflv2", "sflv3", "parallel"]
TOPOLOGIES = ["vanilla", "u-shaped"]


def _plain_loop(rates: tuple[float, float] = (0.02, 0.02)) -> dict[str, Any]:
    """Train the whole model on one client's images with plain SGD, as without fedsplit.

    `rates` are those of the embeddings and of the rest.
    """
    images = load_shard(Config.load(TINY), 0, 1, input_spec("vit-nano")).train
    model = by_hand.initial_parts().merge()
    frontend, rest = [
        [w for name, w in model.named_parameters() if name.startswith("vit.embeddings.") is inside]
        for inside in (True, False)
    ]
    groups = [
        {"params": part, "lr": rate} for part, rate in zip((frontend, rest), rates, strict=True)
    ]
    optimizer = torch.optim.SGD(groups)
    for server_round in by_hand.ROUNDS:
        for pixels, labels in by_hand.batches_of(images, 0, server_round):
            loss = cross_entropy(by_hand.logits_of(model(pixels)), labels)
            by_hand.descend(loss, optimizer)
    return dict(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("strategy", SPLIT)
def test_one_client_equals_centralised_training(
    run: Run, plain_threads: None, strategy: str, topology: str
) -> None:
    """Break it: let any rule take its optimizer's step before the cut gradient is computed.

    Over two rounds with plain SGD, because a shared server part's momentum outlives a round and
    a client's does not.
    """
    result = run(strategy=strategy, split_topology=topology, num_clients=1, momentum=0.0)
    assert distance(weights(result), _plain_loop()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sflv1", "sflv2", "parallel", "sequential"])
def test_the_server_part_has_a_rate_and_a_schedule_of_its_own(
    run: Run, plain_threads: None, strategy: str
) -> None:
    """Break it: make the rule with the training of the clients in `serving.served`."""
    result = run(
        strategy=strategy,
        num_clients=1,
        momentum=0.0,
        learning_rate_schedule="step",
        decay_rounds=1,
        learning_rate_decay=1.0,
        **{"server.learning-rate": 0.05, "server.learning-rate-schedule": "constant"},
    )
    assert distance(weights(result), _plain_loop(rates=(0.02, 0.05))) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPLIT)
def test_no_label_is_in_any_frame_of_the_u_shaped_topology(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Break it: send the labels along in `SplitSession.trunk`."""
    frames: list[Frame] = []
    exchange = DirectStream.exchange

    def recorded(stream: DirectStream, frame: Frame) -> Frame:
        answer = exchange(stream, frame)
        frames.extend((frame, answer))
        return answer

    monkeypatch.setattr(DirectStream, "exchange", recorded)
    simulate(tiny, strategy=strategy, split_topology="u-shaped", num_server_rounds=1)

    named = [(name, tensor) for frame in frames for name, tensor in frame.tensors.items()]
    assert len(named) > 100
    assert {name for name, _ in named} == {f"{CUT_PREFIX}hidden", f"{OUTPUT_PREFIX}hidden"}
    assert {tensor.dtype for _, tensor in named} == {torch.float32}
    assert {tuple(tensor.shape[1:]) for _, tensor in named} == {(17, 64)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "topology"),
    [
        ("sequential", "u-shaped"),
        ("sflv2", "vanilla"),
        ("sflv3", "u-shaped"),
        ("parallel", "vanilla"),
    ],
)
def test_the_same_seed_gives_the_same_bits_and_bytes(
    run: Run, strategy: str, topology: str
) -> None:
    """Break it: draw the order of the updates from torch's global generator."""
    keys = {"strategy": strategy, "split_topology": topology, "fraction_train": 0.75}
    one, other = run(**keys), run(**keys, again=True)
    assert distance(weights(one), weights(other)) == 0.0
    for way in ("cut_uplink_bytes", "cut_downlink_bytes", "sync_uplink_bytes"):
        assert one.summary[way] == other.summary[way]
