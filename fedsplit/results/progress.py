"""The lines that show the progress of a run, as plain text that suits a log file too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsplit.fields import BuiltIn, fields_shown_in, traffic_fields
from fedsplit.results.text import NOTHING, duration, fixed, minutes, shown
from fedsplit.screen import progress_line

_HEADER_EVERY_ROUNDS = 20
_SECONDS_BETWEEN_LINES = 5.0
_ROUNDS_TO_ESTIMATE_FROM = 5

_SCORES = tuple(field for field in fields_shown_in("log") if field.form == "score")


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
        counter = max(5, len(f"{num_rounds}/{num_rounds}"))
        # Counter, scores (a loss may be 10.1234), failed clients, bytes, time and time left.
        self._widths = [counter, 7, *[6] * (len(_SCORES) - 1), 6, 7, 7, 8, 9]
        self._clock = clock
        self._num_rounds = num_rounds
        self._last_seconds: deque[float] = deque(maxlen=_ROUNDS_TO_ESTIMATE_FROM)
        self._lines = 0
        self._doing = ""
        self._took: dict[str, float] = {}
        self._doing_since = self._last_call = self._last_line = clock()

    def resume(self, round_seconds: Sequence[float]) -> None:
        """Take how long each round took that an earlier process has finished."""
        self._last_seconds.clear()
        self._last_seconds.extend(round_seconds)

    def round_begins(self) -> None:
        """Restart the estimates of the time left in the round."""
        self._ends()
        self._doing_since = self._last_call = self._last_line = self._clock()

    def clients_done(self, done: int, total: int, doing: str) -> None:
        """Log how many clients are done, at most once in 5 seconds."""
        now = self._clock()
        if doing != self._doing:  # it began when the work before it last made progress
            self._ends()
            self._doing, self._doing_since = doing, self._last_call
        self._last_call = now
        if not 0 < done < total or now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        so_far = now - self._doing_since
        left = so_far / done * (total - done)
        # Clients that work at the same time end together, soon after the first of them.
        if (as_before := self._took.get(self._doing, 0.0) - so_far) > 0:
            left = min(left, as_before)
        in_words = f"{left:.0f} s" if left < 60 else minutes(left)
        self._log(progress_line(done, total, in_words, doing))

    def _ends(self) -> None:
        """Keep how long it took what clients have just done."""
        if self._doing:
            self._took[self._doing] = self._last_call - self._doing_since
        self._doing = ""

    def round_done(self, row: Mapping[str, Any], *, split: bool) -> None:
        """Log the line of a round, with the header above every 20th.

        Parameters
        ----------
        row : Mapping[str, Any]
            The round.
        split : bool
            Whether it shows the bytes at the cut, or those of synchronised weights.
        """
        self._last_seconds.append(row["round_seconds"])
        traffic = traffic_fields("cut" if split else "sync")
        if self._lines % _HEADER_EVERY_ROUNDS == 0:
            self._header(traffic)
        self._lines += 1
        rounds_left = self._num_rounds - row["round"]
        mean_seconds = sum(self._last_seconds) / len(self._last_seconds)
        self._line(
            f"{row['round']}/{self._num_rounds}",
            *(fixed(row[field.key], 4) for field in _SCORES),
            _failed(row),
            *(shown(field, row[field.key]) for field in traffic),
            duration(row["round_seconds"]),
            duration(mean_seconds * rounds_left),
        )

    def _header(self, traffic: Sequence[BuiltIn]) -> None:
        labels = [field.short_label.rpartition(" ") for field in (*_SCORES, *traffic)]
        for line in (0, 2):  # what stands before the last space, and after it
            cells = [label[line] for label in labels]
            scores, bytes_ = cells[: len(_SCORES)], cells[len(_SCORES) :]
            if line == 0:
                self._line("", *scores, "", *bytes_, "", "time")
            else:
                self._line("round", *scores, "failed", *bytes_, "time", "left")

    def _line(self, *cells: str) -> None:
        pairs = zip(cells, self._widths, strict=True)
        self._log("  ".join(cell.rjust(width) for cell, width in pairs))


def _failed(row: Mapping[str, Any]) -> str:
    return NOTHING if row["num_participants"] is None else str(len(row["failed_clients"]))
