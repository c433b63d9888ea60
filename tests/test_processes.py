"""What ``pytest -n 3 --dist loadfile`` keeps in one process."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="module")
def first_number(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Note that a process has come to this file, and return how many have."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "processes").open("a") as file:
        file.write("x")
        return file.tell()


@pytest.mark.parametrize("number", range(4))
def test_all_tests_of_a_file_run_in_one_process(first_number: int, number: int) -> None:
    """Or each process would make the runs of `run` again. Break it: ``--dist load``."""
    assert first_number == 1
