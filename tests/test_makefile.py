"""What the Makefile says and does before anything is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import Tag, sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
LOCK: dict[str, Any] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None, reason="make is not installed")


@needs_make
def test_it_says_what_it_fetches_before_it_installs(tmp_path: Path) -> None:
    """Break it: remove `announce` from the prerequisites of `run`, or the test for .venv."""
    for name in ("Makefile", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    assert "3.4 GB" in _said(tmp_path, "announce")
    assert _said(tmp_path, "--dry-run", "run").index("3.4 GB") >= 0
    (tmp_path / ".venv").mkdir()
    assert _said(tmp_path, "announce") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the figures are those of Linux")
def test_what_it_says_is_what_is_locked() -> None:
    """Break it: say 2.4 GB."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    all_of_it, of_torch = map(float, re.findall(r"(\d\.\d) GB (?:from PyPI|of it are)", makefile))
    sizes = _sizes()
    torch = sum(size for name, size in sizes.items() if re.match(r"torch|nvidia|cuda|triton", name))
    assert all_of_it == pytest.approx(sum(sizes.values()) / 1e9, abs=0.1)
    assert of_torch == pytest.approx(torch / 1e9, abs=0.1)


@needs_make
def test_the_uv_that_it_installs_is_the_one_that_flower_uses(tmp_path: Path) -> None:
    """With two versions, everything is fetched twice. Break it: install `uv` without a version."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "uv.lock", tmp_path)
    said = _said(tmp_path, "--dry-run", "UV=.tools/bin/uv", ".tools/bin/uv")
    assert set(re.findall(r"install --quiet (?:--target \S+ )?uv(\S*)", said)) == {
        f"=={version('uv')};"
    }


def _said(folder: Path, *arguments: str) -> str:
    assert MAKE is not None
    command = [MAKE, "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def _sizes() -> dict[str, int]:
    """Return the bytes that are fetched for each installed package."""
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    rank = {tag: place for place, tag in enumerate(sys_tags())}
    return {
        package["name"]: _fetched(package, rank)
        for package in LOCK["package"]
        if installed.get(package["name"]) == package["version"] and "registry" in package["source"]
    }


def _fetched(package: dict[str, Any], rank: dict[Tag, int]) -> int:
    wheels = [
        (min(rank[tag] for tag in tags if tag in rank), int(wheel["size"]))
        for wheel in package.get("wheels", [])
        if (tags := parse_wheel_filename(wheel["url"].rsplit("/", 1)[1])[3]) & rank.keys()
    ]
    return min(wheels)[1] if wheels else int(package["sdist"]["size"])
