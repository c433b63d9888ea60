"""That tests' runs take known costs only from a model of the same structure."""

from __future__ import annotations

import pytest
import torch

from fedsplit import costs, load_split_model
from fedsplit.models.split import SplitModel
from fedsplit.results.flops import part_flops
from fedsplit.results.memory import part_memory

SHAPE = (1, 28, 28)


@pytest.fixture
def models() -> list[SplitModel]:
    """Return four of other structures: by cut, by frozen weights, by classes."""
    frozen = load_split_model("vit-nano", [1], num_labels=10)
    frozen.bottom.requires_grad_(False)
    sizes = ((1, 10), (2, 10), (1, 11))
    return [frozen, *(load_split_model("vit-nano", [cut], num_labels=n) for cut, n in sizes)]


def test_known_flops_are_those_of_the_structure(undrawn: None, models: list[SplitModel]) -> None:
    """Break it: leave a weight's shape, or whether it is trained, out of the key."""
    known = vars(costs)["part_flops"]
    assert known is not part_flops
    for _ in range(2):
        assert [known(parts, SHAPE) for parts in models] == [
            part_flops(parts, SHAPE) for parts in models
        ]


def test_known_memory_is_that_of_the_optimizer(undrawn: None, models: list[SplitModel]) -> None:
    """Break it: leave the optimizer, or whether it has momentum, out of the key."""
    known = vars(costs)["part_memory"]
    assert known is not part_memory
    for make in (
        lambda weights: torch.optim.SGD(weights, lr=0.1),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
        torch.optim.Adam,
    ):
        for size in (1, 8):
            assert known(models[1], SHAPE, size, make) == part_memory(models[1], SHAPE, size, make)
