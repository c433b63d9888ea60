"""The lines that show the progress of a run, as plain text that suits a log file too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsplit.fields import fields_shown_in
from fedsplit.results.text import NOTHING, fixed, megabytes, minutes, shown

_HEADER_EVERY_ROUNDS = 20
_SECONDS_BETWEEN_LINES = 5.0
_ROUNDS_TO_ESTIMATE_FROM = 5

_SCORES = tuple(field for field in fields_shown_in("log") if field.form == "score")
_BYTES = tuple(field for field in fields_shown_in("log") if field.unit == "B")
# A column is as wide as its name, or as the values that it has to hold.
_COLUMNS = {
    "round": 5,
    **{field.short_label: 7 for field in _SCORES},
    "ok/failed": 9,
    **{f"{field.short_label} MB": 9 for field in _BYTES},
    "samples/s": 9,
    "seconds": 7,
    "left": 7,
}


class Progress:
    """Logs one line for each round, and more within a long one.

    Parameters
    ----------
    log : Callable[[str], None]
        Takes one line.
    clock : Callable[[], float]
        Seconds that never run backwards.
    num_rounds : int
        The number of rounds of the run.
    """

    def __init__(
        self, log: Callable[[str], None], clock: Callable[[], float], num_rounds: int
    ) -> None:
        self._log = log
        counter = len(f"{num_rounds}/{num_rounds}")
        widths = [max(len(name), width) for name, width in _COLUMNS.items()]
        self._widths = [max(counter, widths[0]), *widths[1:]]
        self._clock = clock
        self._num_rounds = num_rounds
        self._last_seconds: deque[float] = deque(maxlen=_ROUNDS_TO_ESTIMATE_FROM)
        self._lines = 0
        self._doing = ""
        self._doing_since = self._last_call = self._last_line = clock()

    def resume(self, round_seconds: Sequence[float]) -> None:
        """Take how long each round took that an earlier process has finished."""
        self._last_seconds.clear()
        self._last_seconds.extend(round_seconds)

    def round_begins(self) -> None:
        """Restart the estimates of the time left in the round."""
        self._doing = ""
        self._doing_since = self._last_call = self._last_line = self._clock()

    def clients_done(self, done: int, total: int, doing: str) -> None:
        """Log how many clients are done, at most once in 5 seconds."""
        now = self._clock()
        if doing != self._doing:  # it began when the work before it last made progress
            self._doing, self._doing_since = doing, self._last_call
        self._last_call = now
        if not 0 < done < total or now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        left = (now - self._doing_since) / done * (total - done)
        in_words = f"{left:.0f} s" if left < 60 else minutes(left)
        self._log(f"  {done}/{total} clients done, {in_words} left in this round's {doing}")

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Log the line of a round, with the header above every 20th."""
        self._last_seconds.append(row["round_seconds"])
        if self._lines % _HEADER_EVERY_ROUNDS == 0:
            self._line(list(_COLUMNS))
        self._lines += 1
        rounds_left = self._num_rounds - row["round"]
        mean_seconds = sum(self._last_seconds) / len(self._last_seconds)
        self._line(
            [
                f"{row['round']}/{self._num_rounds}",
                *(shown(field, row[field.key]) for field in _SCORES),
                _ok_and_failed(row),
                *(megabytes(row[field.key]) for field in _BYTES),
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
