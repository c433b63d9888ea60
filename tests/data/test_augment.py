from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from fedsplit.config.data import Augment
from fedsplit.data.augment import Augmentation
from tests.conftest import Run, distance, weights

KINDS: tuple[Augment, ...] = tuple(kind for kind in get_args(Augment) if kind != "none")


def pixels_of(channels: int = 3, count: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, channels, 16, 24), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize("kind", KINDS)
def test_the_change_of_an_image_depends_on_nothing_but_its_names(kind: Augment) -> None:
    """Break it: seed once for each batch."""
    augment, pixels = Augmentation(kind, 5, "client", 1, 2, 0), pixels_of()
    indices = torch.arange(6)
    torch.manual_seed(1)
    together = augment(pixels, indices)
    torch.manual_seed(2)
    order = torch.tensor([4, 0, 5])
    assert torch.equal(augment(pixels[order], order), together[order])
    assert not torch.equal(together, pixels)
    for names in [("client", 2, 2, 0), ("client", 1, 3, 0), ("client", 1, 2, 1), ("pooled", 1, 2)]:
        assert not torch.equal(Augmentation(kind, 5, *names)(pixels, indices), together)
    assert not torch.equal(Augmentation(kind, 6, "client", 1, 2, 0)(pixels, indices), together)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_shape_and_type_and_the_global_generator_its_state(
    kind: Augment, channels: int
) -> None:
    pixels = pixels_of(channels, count=40)
    kept, before = pixels.clone(), torch.random.get_rng_state()
    changed = Augmentation(kind, 5, "a")(pixels, torch.arange(40))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (changed.shape, changed.dtype) == (pixels.shape, pixels.dtype)
    assert torch.equal(pixels, kept)


def test_flip_crop_moves_by_at_most_an_eighth_and_mirrors_what_comes_in() -> None:
    ramp = torch.arange(16, dtype=torch.uint8).expand(60, 1, 16, 16).contiguous()
    changed = Augmentation("flip-crop", 5, "a")(ramp, torch.arange(60))
    middles = {int(row[8]) for row in changed[:, 0, 0]}
    assert middles <= {5, 6, 7, 8, 9, 10} | {16 - 8}
    assert len(middles) > 3
    steps = changed.to(torch.int16).diff(dim=-1).abs().flatten().tolist()
    assert set(steps) == {1}  # no black border


def test_the_order_of_clients_changes_nothing_in_an_augmented_run(run: Run) -> None:
    """Break it: draw from the global generator without its lock."""
    one = run(data_augment="trivial", max_concurrent_clients=1)
    four = run(data_augment="trivial", max_concurrent_clients=4)
    assert distance(weights(one), weights(four)) == 0.0
    assert distance(weights(one), weights(run())) > 0.0


def test_the_pooled_images_of_centralized_training_are_changed_too(run: Run) -> None:
    changed = run(strategy="centralized", data_augment="flip-crop")
    assert distance(weights(changed), weights(run(strategy="centralized"))) > 0.0
