from __future__ import annotations

from pathlib import Path

import torch

from fedsplit import Config
from fedsplit.boundary import TensorSpec
from fedsplit.models.stages import Part
from fedsplit.preparation import prepare


def test_a_preparation_holds_what_a_run_needs(tiny: dict[str, object]) -> None:
    config = Config.load(tiny, {"split.cut-layer": 2})
    before = torch.get_rng_state()
    prepared = prepare(config)

    assert torch.equal(before, torch.get_rng_state())
    assert (prepared.spec.channels, prepared.spec.height) == (1, 28)
    assert len(prepared.test) == 50
    assert len(prepared.class_names) == prepared.wire.num_labels == 10
    assert prepared.wire.max_batch_size == 8
    assert prepared.wire.smashed.tensors == {"hidden": TensorSpec((1, 17, 64), torch.float32)}
    assert isinstance(prepared.model.bottom, Part)
    assert (prepared.model.bottom.start, prepared.model.bottom.end) == (0, 2)
    assert prepared.whole(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert not Path(str(tiny["output-dir"])).exists()


def test_initial_weights_follow_the_seed_not_the_cut(tiny: dict[str, object]) -> None:
    def first(**overrides: object) -> torch.Tensor:
        model = prepare(Config.load(tiny, overrides)).model.merge()
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    assert torch.equal(first(), first(split_cut_layer=4))
    assert torch.equal(first(), first(strategy="full"))
    assert not torch.equal(first(), first(seed=8))
