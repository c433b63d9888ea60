"""A model's code is defined again between two runs of one process, as in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedsplit import simulate
from tests.conftest import distance, weights

# The bottom's code is what clients run.
HELPERS = """
from torch import nn

class Bottom(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, {width})

    def forward(self, images):
        return self.linear(images.flatten(1)) * {scale}
"""
FUNCTION = """
import sys
from torch import nn
from fedsplit import SplitModel

def make(num_labels=10):
    bottom = sys.modules["{helpers}"].Bottom()
    for parameter in bottom.parameters():
        parameter.data *= {factor}
    width = bottom.linear.out_features
    return SplitModel(bottom, nn.Linear(width, width), nn.Linear(width, num_labels))
"""
FIRST = {"width": 8, "scale": 1.0, "factor": 1.0}
Write = Callable[..., None]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Write:
    """Run code in a module of this name, which is the one that was there before."""
    modules: dict[str, ModuleType] = {}

    def run_cell(name: str, code: str, **values: object) -> None:
        module = modules.setdefault(name, ModuleType(name))
        monkeypatch.setitem(sys.modules, name, module)
        exec(code.format(**values), vars(module))

    return run_cell


def _trained(name: str, strategy: str, tmp_path: Path) -> dict[str, torch.Tensor]:
    result = simulate(
        {
            "model.name": name,
            "strategy": strategy,
            "num-clients": 2,
            "num-server-rounds": 1,
            "batch-size": 8,
            "data.max-train-samples": 40,
            "data.max-test-samples": 20,
            "output-dir": str(tmp_path),
        }
    )
    assert result.rounds[0]["failed_clients"] == []
    return weights(result)


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({"scale": 3.0}, "sflv1"),  # the clients would go on with the old code, silently
        ({"scale": 3.0}, "full"),
        ({"width": 12}, "sflv1"),  # the weights would not fit
        ({"factor": 0.5}, "sflv1"),  # in the function itself
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_the_next_run_uses_the_code_as_it_is_then(
    write: Write, tmp_path: Path, changes: dict[str, object], strategy: str
) -> None:
    """The results are those of code that has never been anything else.

    Break it: resolve the model by its name alone. `scale` then gives other weights, and `width`
    fails.
    """
    write("helpers", HELPERS, **FIRST)
    write("notebook", FUNCTION, helpers="helpers", **FIRST)
    before = _trained("notebook:make", strategy, tmp_path)
    second = {**FIRST, **changes}
    if "factor" in changes:
        write("notebook", FUNCTION, helpers="helpers", **second)
    else:  # only what the function uses
        write("helpers", HELPERS, **second)
    after = _trained("notebook:make", strategy, tmp_path)

    write("new_helpers", HELPERS, **second)
    write("new_notebook", FUNCTION, helpers="new_helpers", **second)
    expected = _trained("new_notebook:make", strategy, tmp_path)
    assert distance(after, expected) == 0.0
    if before["bottom.linear.bias"].shape == after["bottom.linear.bias"].shape:
        assert distance(before, after) > 1e-4
