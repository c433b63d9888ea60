"""Whole runs of what trains in part, and in which dtype: see docs/algorithms.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsplit import Config, Result, load_split_model
from fedsplit.arrays import to_record
from fedsplit.boundary import State
from fedsplit.channel.codec import encoded_length
from fedsplit.channel.frame import Frame, Kind
from fedsplit.data.shards import load_shard
from fedsplit.exchanged_state import exchanged
from fedsplit.flower_internals import record_bytes
from fedsplit.initial_model import initial_model
from fedsplit.models.loading import input_spec
from fedsplit.models.resolved import resolve
from fedsplit.models.split import SplitModel, hold_parts, join_parts
from fedsplit.models.stages import Part
from tests.conftest import TINY, Run, distance, weights

SMALL: Mapping[str, Any] = {
    "num_clients": 2,
    "num_server_rounds": 2,
    "local_epochs": 1,
    "data_max_train_samples": 40,
    "data_max_test_samples": 20,
}
MODES = ["bottom-frozen", "head", "lora"]
TOPOLOGIES = ["vanilla", "u-shaped"]


def _config(**overrides: object) -> Config:
    return Config.load(TINY, {**SMALL, **overrides})


def _initial(**overrides: object) -> SplitModel:
    config = _config(**overrides)
    return initial_model(config, resolve(config.model.name), num_labels=10)


def _start(mode: str = "all") -> dict[str, Tensor]:
    model = _initial(split_trainable=mode)
    return dict(join_parts(*model).state_dict())


def _moved(result: Result) -> set[str]:
    start, end = _start(), weights(result)
    assert set(start) == set(end)
    return {name for name in start if not torch.equal(start[name], end[name])}


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("mode", MODES)
def test_sflv1_equals_full_and_what_is_frozen_stays(run: Run, mode: str, topology: str) -> None:
    """Break it: average frozen tensors too, or leave the classifier out of what is exchanged."""
    split = run(**SMALL, split_trainable=mode, split_topology=topology)
    full = run(**SMALL, split_trainable=mode, strategy="full")
    assert [row["failed_clients"] for row in (*split.rounds, *full.rounds)] == [[]] * 4
    assert distance(weights(split), weights(full)) < 1e-6

    moved = _moved(split)
    linear = {n for n in _start() if ".layers." in n and n.endswith("weight") and "norm" not in n}
    allowed = {
        "bottom-frozen": {n for n in _start() if "embeddings" not in n},
        "head": {n for n in _start() if n.startswith(("vit.layernorm", "classifier"))},
        "lora": linear | {n for n in _start() if n.startswith("classifier")},
    }[mode]
    still = allowed - moved
    assert moved <= allowed
    assert {name for name in still if not name.endswith("k_proj.bias")} == set()


def _scores() -> dict[str, Tensor]:
    return {"loss": torch.zeros(()), "num-correct": torch.zeros((), dtype=torch.int64)}


def _expected_cut_bytes(mode: str, topology: str) -> tuple[int, int]:
    """Count what has to cross in one round, from the shards alone."""
    config, up, down = _config(), 0, 0
    finish, finished = (encoded_length(Frame(kind, 0)) for kind in (Kind.FINISH, Kind.FINISHED))
    for client in range(2):
        left = len(load_shard(config, client, 2, input_spec("vit-nano")).train)
        up, down = up + finish, down + finished
        while left:
            size = min(left, 8)
            left -= size
            hidden = torch.zeros(size, 17, 64)
            labels = torch.zeros(size, dtype=torch.int64)
            if topology == "vanilla":
                frame = Frame(Kind.SMASHED_DATA, 0, {"cut.hidden": hidden, "labels": labels})
                up += encoded_length(frame)
                down += encoded_length(Frame(Kind.CUT_GRADIENT, 0, _scores()))
                continue
            up += encoded_length(Frame(Kind.SMASHED_DATA, 0, {"cut.hidden": hidden}))
            down += encoded_length(Frame(Kind.TRUNK_OUTPUT, 0, {"output.hidden": hidden}))
            if mode != "head":
                up += encoded_length(Frame(Kind.OUTPUT_GRADIENT, 0, {"output.hidden": hidden}))
                down += encoded_length(Frame(Kind.CUT_GRADIENT, 0))
    return up, down


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("mode", MODES)
def test_the_ledger_shows_what_is_not_sent(run: Run, mode: str, topology: str) -> None:
    """At cut 1 no bottom trains in these modes. Break it: send the cut gradient all the same."""
    result = run(**SMALL, split_trainable=mode, split_topology=topology)
    for row in result.rounds:
        found = row["cut_uplink_bytes"], row["cut_downlink_bytes"]
        assert found == _expected_cut_bytes(mode, topology)
    sync = [result.rounds[0][f"sync_{way}_bytes"] for way in ("uplink", "downlink")]
    if topology == "vanilla":
        assert sync == [0, 0]
        return
    model = _initial(split_trainable=mode)
    names = ["classifier.weight", "classifier.bias"]
    if mode != "lora":
        names = ["vit.layernorm.weight", "vit.layernorm.bias", *names]
    state = {name: model.top.state_dict()[name] for name in names}
    assert sync[1] == 2 * record_bytes(to_record(state))


@pytest.mark.slow
def test_adapters_on_both_sides_equal_full_and_load_again(run: Run) -> None:
    """Break it: draw the adapters of the server's side before those of the client's."""
    split = run(**SMALL, split_trainable="lora", split_cut_layer=3, lora_rank=2)
    full = run(**SMALL, split_trainable="lora", split_cut_layer=3, lora_rank=2, strategy="full")
    assert distance(weights(split), weights(full)) < 1e-6
    per_block = 2 * (4 * (64 + 64) + 2 * (64 + 256))
    of = split.summary
    assert of["client_trainable_parameters"] == 2 * per_block
    assert of["server_trainable_parameters"] == 2 * per_block + 650
    assert full.summary["client_trainable_parameters"] == 4 * per_block + 650
    assert of["client_parameters"] + of["server_parameters"] == 205_066 + 4 * per_block

    start, end = _start(), weights(split)
    for name in ("vit.layers.0.mlp.fc1.weight", "vit.layers.3.attention.q_proj.weight"):
        assert int(torch.linalg.matrix_rank(end[name] - start[name], atol=1e-5)) == 2
    loaded = load_split_model(str(split.run_dir / "model"), [3]).merge().state_dict()
    assert distance(dict(loaded), end) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "mode", "topology"),
    [
        ("sequential", "lora", "u-shaped"),
        ("sflv2", "head", "u-shaped"),
        ("sflv3", "bottom-frozen", "vanilla"),
        ("parallel", "bottom-frozen", "u-shaped"),
        ("centralized", "head", "vanilla"),
    ],
)
def test_every_strategy_trains_in_part(run: Run, strategy: str, mode: str, topology: str) -> None:
    keys = {**SMALL, "num_server_rounds": 1}
    result = run(**keys, strategy=strategy, split_trainable=mode, split_topology=topology)
    assert result.rounds[0]["failed_clients"] == []
    moved = _moved(result)
    assert moved
    assert not any("embeddings" in name for name in moved)


@pytest.mark.slow
def test_bfloat16_weights_are_synchronised_exactly(run: Run) -> None:
    """Break it: let the aggregator average the integers that bfloat16 travels as."""
    keys = {**SMALL, "model_dtype": "bfloat16", "num_server_rounds": 1}
    split, full = run(**keys), run(**keys, strategy="full")
    assert {tensor.dtype for tensor in weights(split).values()} == {torch.bfloat16}
    # Both average in float32 or more; one unit in the last place of 8 bits may differ.
    assert distance(weights(split), weights(full)) < 2**-7
    bottom = _initial(model_dtype="bfloat16").bottom
    assert {t.dtype for t in exchanged(bottom).values()} == {torch.bfloat16}
    down = split.rounds[0]["sync_downlink_bytes"]
    assert down == 2 * record_bytes(to_record(exchanged(bottom)))
    wide = run(**{**SMALL, "num_server_rounds": 1}).rounds[0]
    # 2 bytes less for each of 4,352 numbers; names of dtypes and digits of lengths differ.
    assert 2 * 2 * 4352 - (wide["sync_downlink_bytes"] - down) in range(2 * 8)
    assert split.rounds[0]["cut_uplink_bytes"] < 0.52 * wide["cut_uplink_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_both_sides_and_keeps_float32(
    run: Run, dtype: torch.dtype, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: let one side compute in float32, or central evaluation in 16 bits."""
    keys = {**SMALL, "num_server_rounds": 1, "split_topology": topology}
    plain = run(**keys)
    computed: defaultdict[tuple[int, int], set[torch.dtype | None]] = defaultdict(set)
    run_stages = Part._run

    def recorded(part: Part, state: State) -> State:
        if torch.is_grad_enabled() and next(part.parameters()).device.type != "meta":
            cast = torch.is_autocast_enabled("cpu")
            stages = part.start, part.end
            computed[stages].add(torch.get_autocast_dtype("cpu") if cast else None)
        return run_stages(part, state)

    monkeypatch.setattr(Part, "_run", recorded)
    cast = run(again=True, **keys, model_autocast=str(dtype).removeprefix("torch."))
    server = [(1, 6)] if topology == "vanilla" else [(1, 5), (5, 6)]
    assert computed == {stages: {dtype} for stages in [(0, 1), *server]}
    assert cast.rounds[0]["failed_clients"] == []
    difference = distance(weights(plain), weights(cast))
    assert 1e-7 < difference < 1e-2
    assert {tensor.dtype for tensor in weights(cast).values()} == {torch.float32}
    for key in ("cut_uplink_bytes", "cut_downlink_bytes", "sync_uplink_bytes"):
        assert plain.summary[key] == cast.summary[key]
    assert plain.summary["initial_loss"] == cast.summary["initial_loss"]


def test_the_client_part_names_its_tensors_as_the_whole() -> None:
    model = _initial(split_trainable="lora")
    held = exchanged(hold_parts(model.bottom, model.top))
    assert set(held) < set(exchanged(join_parts(*model)))
