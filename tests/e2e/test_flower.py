"""The e2e fixture itself: runs are refused or given up, and no process is left behind.

The other files' runs of the app show that runs complete with their config and all nodes, and
test_failures.py shows that a failed run is told from a completed one.
"""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path

import pytest

from tests.e2e.flower import Flower, Scalar, as_toml
from tests.e2e.processes import processes_of

NOOP = Path(__file__).with_name("noop")

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_run_config_is_written_as_it_is() -> None:
    given: dict[str, Scalar] = {"text": 'two "words"\n', "a.b": 0.5, "on": True, "many": 3}
    assert tomllib.loads(as_toml(given)) == {
        "text": 'two "words"\n',
        "a": {"b": 0.5},
        "on": True,
        "many": 3,
    }


def test_a_rejected_run_has_no_status(flower: Flower) -> None:
    run = flower.submit(NOOP, run_config={"no-such-key": 1})

    assert run.exit_code != 0
    assert "Invalid run configuration" in run.output
    assert (run.run_id, run.status) == ("", "")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_nothing_is_left_running_when_a_run_is_given_up() -> None:
    with Flower() as own:
        with pytest.raises(Exception, match="timed out"):
            own.run(NOOP, timeout_seconds=6.0)
        assert [line for line in processes_of(own.home).values() if "superlink" not in line] == []
        assert len(processes_of(own.home)) == 1
        port = own.port

    assert processes_of(own.home) == {}
    assert not own.home.exists()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
    assert os.environ.get("FLWR_HOME") != str(own.home)
