"""Checkpoints of every family, saved locally, are fine-tuned through the real channel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsplit import Result, inprocess, simulate
from fedsplit.models import load_model, save_model
from fedsplit.models.registry import family_of
from fedsplit.seeding import seeded_init
from fedsplit.serving import Engine, open_grpc
from tests.models.families import qwen3_vl_toys, zoo

pytestmark = pytest.mark.usefixtures("undrawn")

KEYS: dict[str, object] = {
    "strategy": "sflv1",
    "num-clients": 2,
    "num-server-rounds": 1,
    "batch-size": 8,
    "learning-rate": 0.01,
    "data.max-train-samples": 40,
    "data.max-test-samples": 20,
    "seed": 3,
}
FAMILIES = ["vit", "dinov2", "siglip", "swin", "torchvision", "qwen3-vl vision", "qwen3-vl"]


@pytest.fixture(autouse=True)
def _real_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "IN_PROCESS", Engine("inprocess", open_grpc))


def _saved(name: str, directory: Path) -> str:
    if name == "qwen3-vl":  # the whole, of which the vision tower is taken
        qwen3_vl_toys.whole_of().save_pretrained(directory)
        return str(directory)
    model = zoo.make(name)
    save_model(model, zoo.images_of(model), directory)
    return str(directory)


def _tuned(directory: str, output: Path, **changes: object) -> Result:
    return simulate({**KEYS, "model.name": directory}, output_dir=str(output), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_checkpoint_is_fine_tuned(tmp_path: Path, name: str) -> None:
    """Break it: draw the model afresh although it has weights."""
    directory = _saved(name, tmp_path / "saved")
    result = _tuned(directory, tmp_path)
    before = load_model(directory, num_labels=10).state_dict()
    after = result.model.merge().state_dict()
    assert result.rounds[0]["failed_clients"] == []
    assert result.summary["cut_uplink_bytes"] > 0 < result.summary["sync_uplink_bytes"]
    assert before.keys() == after.keys()
    moved = {n: (after[n] - before[n]).abs().max().item() for n in before}
    blocks = {n: far for n, far in moved.items() if not n.startswith(("classifier", "heads"))}
    # A step of Adam is about as long as the rate: fine-tuned, not drawn afresh.
    assert 0 < max(blocks.values()) < 0.2
    assert torch.equal(
        load_model(str(result.run_dir / "model")).state_dict()[min(after)], after[min(after)]
    )


@pytest.mark.slow
def test_lora_and_a_frozen_bottom_have_the_smaller_ledger(tmp_path: Path) -> None:
    """Break it: send the whole bottom whatever trains."""
    directory = _saved("vit", tmp_path / "saved")
    found = {
        mode: _tuned(directory, tmp_path, split_trainable=mode, split_cut_layer=2).summary
        for mode in ("all", "lora", "bottom-frozen")
    }
    uplink = {mode: summary["sync_uplink_bytes"] for mode, summary in found.items()}
    downlink = {mode: summary["cut_downlink_bytes"] for mode, summary in found.items()}
    assert uplink["bottom-frozen"] == 0 < uplink["lora"] < uplink["all"]
    # No cut gradient returns to a bottom that does not train.
    assert downlink["bottom-frozen"] < downlink["all"] / 10
    assert downlink["lora"] == downlink["all"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "beit-both"])
@pytest.mark.parametrize("keys", [{"strategy": "full"}, {"split_topology": "u-shaped"}])
def test_what_the_output_does_not_use_is_neither_sent_nor_changed(
    tmp_path: Path, name: str, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: leave out `unused_weights` of a family; averaging then changes last bits."""
    directory = _saved(name, tmp_path / "saved")
    shapes: dict[str, object] = {"num_clients": 3, "batch_size": 4, "num_server_rounds": 2}
    result = _tuned(directory, tmp_path, **keys, **shapes)
    before = load_model(directory, num_labels=10)
    after = load_model(str(result.run_dir / "model")).state_dict()
    unused = {n for n in after if n.startswith(family_of(before).unused_weights)}
    assert len(unused) == {"clip": 2, "siglip": 11, "dinov2": 1, "beit-both": 1}[name]
    assert all(torch.equal(after[n], before.state_dict()[n]) for n in unused)
    assert result.rounds[-1]["failed_clients"] == []
    # Without them the messages are smaller by at least most of their bytes.
    monkeypatch.setattr("fedsplit.models.trainable.unused_weights_of", lambda part: ())
    all_sent = _tuned(directory, tmp_path / "all", **keys, **shapes)
    saved = all_sent.summary["sync_uplink_bytes"] - result.summary["sync_uplink_bytes"]
    size = sum(before.state_dict()[n].nbytes for n in unused)
    assert saved > 2 * 3 * size * 0.8


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", "centralized", "sequential", "sflv1", "parallel"])
def test_what_a_model_holds_fixed_is_fixed_in_every_strategy(tmp_path: Path, strategy: str) -> None:
    """Break it: give the optimizer every parameter."""
    name = "tests.models.own:make_with_fixed_positions"
    result = simulate({**KEYS, "model.name": name}, strategy=strategy, output_dir=str(tmp_path))
    with seeded_init(3, "model"):
        before = load_model(name).state_dict()
    after = result.model.merge().state_dict()
    fixed = {n for n in before if torch.equal(before[n], after[n])}
    assert fixed == {"bottom.frontend.vit.embeddings.position_embeddings"}
