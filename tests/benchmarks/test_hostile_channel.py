"""A smaller run of the benchmark: over TLS, too, no hostile frame is accepted."""

from __future__ import annotations

from pathlib import Path

from benchmarks.hostile_channel import EXPECTED, throw


def test_hostile_frames_over_tls_are_refused_without_memory(tmp_path: Path) -> None:
    """Break it: leave `WIRE.unpack` out of `Door.handle`."""
    found = throw(300, tmp_path, seed=1)
    assert found.wrong == []
    assert set(found.outcomes) <= set(EXPECTED)
    assert found.outcomes["INVALID_ARGUMENT"] > 200
    first, last = found.memory_bytes
    assert last - first < 16 * 2**20
