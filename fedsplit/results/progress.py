"""The lines that show how a run goes on; plain text that stays readable in a log file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from fedsplit.results.text import NOTHING, fixed, megabytes, minutes

_HEADER_EVERY_ROUNDS = 20
_SECONDS_BETWEEN_LINES = 5.0
_ROUNDS_TO_ESTIMATE_FROM = 5

_COLUMNS = (
    ("round", 5),
    ("train loss", 10),
    ("test acc", 8),
    ("val acc", 7),
    ("ok/failed", 9),
    ("cut MB up", 9),
    ("MB down", 9),
    ("samples/s", 9),
    ("seconds", 7),
    ("left", 7),
)


class Progress:
    """Logs one line for each round, and some within a long one.

    Parameters
    ----------
    log : Callable[[str], None]
        Takes one line.
    clock : Callable[[], float]
        Seconds that never run backwards.
    num_rounds : int
        Of the run.
    """

    def __init__(
        self, log: Callable[[str], None], clock: Callable[[], float], num_rounds: int
    ) -> None:
        self._log = log
        counter = len(f"{num_rounds}/{num_rounds}")
        self._widths = [max(counter, _COLUMNS[0][1]), *(width for _, width in _COLUMNS[1:])]
        self._clock = clock
        self._num_rounds = num_rounds
        self._last_seconds: deque[float] = deque(maxlen=_ROUNDS_TO_ESTIMATE_FROM)
        self._doing = ""
        self._doing_since = self._last_call = self._last_line = clock()

    def round_begins(self) -> None:
        """Restart the estimates within the round."""
        self._doing = ""
        self._doing_since = self._last_call = self._last_line = self._clock()

    def clients_done(self, done: int, total: int, doing: str) -> None:
        """Log how many clients are done, unless a line was logged in the last 5 seconds."""
        now = self._clock()
        if doing != self._doing:  # it began when what came before was last heard of
            self._doing, self._doing_since = doing, self._last_call
        self._last_call = now
        if not 0 < done < total or now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        left = (now - self._doing_since) / done * (total - done)
        in_words = f"{left:.0f} s" if left < 60 else minutes(left)
        self._log(f"  {done}/{total} clients done, {in_words} left in this round's {doing}")

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Log a round's line, and the header where it is due."""
        self._last_seconds.append(row["round_seconds"])
        if (row["round"] - 1) % _HEADER_EVERY_ROUNDS == 0:
            self._line([name for name, _ in _COLUMNS])
        rounds_left = self._num_rounds - row["round"]
        mean_seconds = sum(self._last_seconds) / len(self._last_seconds)
        self._line(
            [
                f"{row['round']}/{self._num_rounds}",
                fixed(row["train_loss"], 4),
                fixed(row["test_accuracy"], 4),
                fixed(row["validation_accuracy"], 4),
                _ok_and_failed(row),
                megabytes(row["cut_uplink_bytes"]),
                megabytes(row["cut_downlink_bytes"]),
                _samples_per_second(row),
                fixed(row["round_seconds"], 1),
                minutes(mean_seconds * rounds_left),
            ]
        )

    def _line(self, cells: list[str]) -> None:
        pairs = zip(cells, self._widths, strict=True)
        self._log("  ".join(cell.rjust(width) for cell, width in pairs))


def _ok_and_failed(row: Mapping[str, Any]) -> str:
    if row["num_participants"] is None:
        return NOTHING
    failed = len(row["failed_clients"])
    return f"{row['num_participants'] - failed}/{failed}"


def _samples_per_second(row: Mapping[str, Any]) -> str:
    if not row["num_examples"] or not row["train_seconds"]:
        return NOTHING
    return fixed(row["num_examples"] / row["train_seconds"], 0)
