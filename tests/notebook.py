"""Objects as a notebook has them: small data sets and models for `simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from fedsplit import SplitModel, simulate
from fedsplit.seeding import seeded_init
from tests.conftest import weights
from tests.data.pictures import picture
from tests.small_models import make

KEYS: dict[str, Any] = {
    "num-clients": 2,
    "num-server-rounds": 3,
    "batch-size": 8,
    "learning-rate": 0.01,
    "seed": 5,
}


class Toy(Dataset[tuple[Any, int]]):
    """Pictures of 10x10 pixels in two classes."""

    classes = ("dark", "light")

    def __init__(self, count: int = 48, first: int = 0) -> None:
        self.count = count
        self.first = first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return picture(self.first + index, size=10), index % 2


def parts(seed: int = 5, num_labels: int = 2) -> SplitModel:
    """Return modules with the weights that a run of this seed gives `tests.small_models:make`."""
    with seeded_init(seed, "model"):
        return make(num_labels)


def run_small(folder: Path, **given: Any) -> Any:  # noqa: ANN401 - a Result
    """Run KEYS without a word."""
    return simulate({**KEYS, "output-dir": str(folder)}, verbose=False, **given)


def same(one: Any, other: Any) -> bool:  # noqa: ANN401 - Results
    """Return whether two runs have the same weights and rows, but for times."""
    first, second = weights(one), weights(other)
    rows = [
        [{k: v for k, v in row.items() if "second" not in k} for row in result.rounds]
        for result in (one, other)
    ]
    return rows[0] == rows[1] and all(bool((first[n] == second[n]).all()) for n in first)
