"""What the tests ask of the app, and what they read from its runs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor

APP_DIR = Path(__file__).parents[2]
SMALL: dict[str, str | int | float | bool] = {
    "num-server-rounds": 1,
    "batch-size": 16,
    "data.max-train-samples": 300,
    "data.max-test-samples": 60,
}
UNEVEN = SMALL | {
    "num-server-rounds": 2,
    "data.partitioner": "dirichlet",
    "data.min-partition-size": 10,
}
BYTE_KEYS = [
    f"{what}_{way}_bytes" for what in ("cut", "sync", "evaluate") for way in ("uplink", "downlink")
]
REFUSED_TEXT = ("Traceback", "\x1b[A", "\r")  # not for a person, or not for a log file


@dataclass(frozen=True)
class RunFiles:
    """A finished run directory."""

    summary: dict[str, Any]
    rounds: list[dict[str, Any]]
    weights: dict[str, Tensor]
    clients: str

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read it; what is missing fails the test."""
        lines = (directory / "rounds.jsonl").read_text().splitlines()
        return cls(
            json.loads((directory / "summary.json").read_text()),
            [json.loads(line) for line in lines],
            load_file(directory / "model" / "model.safetensors"),
            (directory / "clients.jsonl").read_text(),
        )

    @property
    def num_bytes(self) -> dict[str, int]:
        """Return all that crossed, by purpose and direction."""
        return {key: self.summary[key] for key in BYTE_KEYS}


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Fail unless two state dicts are equal, bit for bit."""
    assert sorted(one) == sorted(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def other_app(source: Path, folder: Path, *, client: str = "", server: str = "") -> Path:
    """Make a Flower app that is this one, but for its ClientApp or ServerApp.

    Parameters
    ----------
    source : Path
        A folder with one package.
    folder : Path
        Where to make the app.
    client, server : str
        Reference to the app's own, in that package; empty = this app's.
    """
    shutil.copytree(source, folder)
    project = (APP_DIR / "pyproject.toml").read_text(encoding="utf-8")
    project = project.replace("fedsplit.client_app:app", client or "fedsplit.client_app:app")
    project = project.replace("fedsplit.server_app:app", server or "fedsplit.server_app:app")
    before, start, rest = project.partition("fab-include = [")
    _, end, after = rest.partition("]")
    project = before + start + json.dumps(f"{source.name}/*.py") + end + after
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    return folder


def paragraph_of(output: str, pattern: str) -> str:
    """Return the first line of a log in which a pattern is found, without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    lines = [line for line in plain.splitlines() if re.search(pattern, line)]
    assert lines, plain
    return lines[0]


def run_directory_of(output: str) -> Path:
    """Return the run directory that a log names, which is absolute."""
    path = Path(paragraph_of(output, "Run directory: ").partition("Run directory: ")[2].strip())
    assert path.is_absolute()
    return path
