from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from fedsplit.meter import Meter


def test_threads_count_together() -> None:
    """Break it: leave out the lock's `with`, and counts are lost now and then."""
    meter = Meter()

    def often() -> None:
        for _ in range(500):
            meter.count(steps=1, uplink_bytes=3)

    with ThreadPoolExecutor(8) as threads:
        for _ in range(8):
            threads.submit(often)
    assert meter.counts() == {"steps": 4000, "uplink_bytes": 12000}
