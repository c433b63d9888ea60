"""What has crossed this process's channel so far, for those who watch it live.

The ledger counts what a round has cost, exactly and for each participant. The meter only adds up,
and also counts what was refused.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Meter:
    """Counters that only rise. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def count(self, **amounts: int) -> None:
        """Add to counters by name."""
        with self._lock:
            self._counts.update(amounts)

    def counts(self) -> Mapping[str, int]:
        """Return all counters that were counted."""
        with self._lock:
            return dict(self._counts)


METER = Meter()
"""Of this process, as Prometheus counts."""
