"""The checkpoints of a run: the last two, and that of the best round."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsplit.errors import RunError, cannot_write
from fedsplit.results.best import best_round
from fedsplit.results.files import remove_partial, replace_file

if TYPE_CHECKING:
    from fedsplit.snapshot import Snapshot

_logger = logging.getLogger(__name__)
_NAME = re.compile(r"round-(\d{6,})\.safetensors")
_LAST_KEPT = 2

_KINDS: dict[str, type] = {
    **dict.fromkeys(("versions", "config", "inputs", "arrays", "strategy", "recorder"), dict),
    **dict.fromkeys(("inputs/class_counts", "inputs/shards", "inputs/validation"), dict),
    "round": int,
    "recorder/rows": list,
    "recorder/facts": dict,
    "recorder/facts/engine": str,
}
"""What is where in a state, as far as it has it; each after what it is in."""

Rows = Sequence[Mapping[str, Any]]


class Checkpoints:
    """The folder ``checkpoints/`` of a run directory. Each file is the state after a round.

    A file is written whole or not at all, and an older one is removed only after a newer one is
    on the disk.

    Parameters
    ----------
    folder : Path
        It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rounds(self) -> list[int]:
        """Return the rounds of which there is a checkpoint, in order."""
        files = (path for path in self.folder.glob("round-*") if path.is_file())
        names = [_NAME.fullmatch(path.name) for path in files]
        return sorted(int(name[1]) for name in names if name)

    def write(
        self, server_round: int, state: Snapshot, rows: Rows, monitor: str = "test-accuracy"
    ) -> None:
        """Write the state after a round, and remove what is neither recent nor the best.

        Parameters
        ----------
        server_round : int
            From 1.
        state : Snapshot
            What a run needs to continue.
        rows : Rows
            Of all finished rounds; they say which checkpoint is that of the best round.
        monitor : str
            By which score (see `fedsplit.results.best`).

        Raises
        ------
        RunError
            If it cannot be written. Earlier checkpoints are then unchanged.
        """
        from fedsplit.snapshot import save  # loads torch: not for reports

        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from None
        replace_file(self._path(server_round), lambda path: save(state, path))
        kept = {*self.rounds()[-_LAST_KEPT:], self.best_round(rows, monitor)}
        for other in set(self.rounds()) - kept:
            self._path(other).unlink(missing_ok=True)

    def best_round(self, rows: Rows, monitor: str = "test-accuracy") -> int | None:
        """Return the best round of those with a checkpoint; see `fedsplit.results.best`."""
        return best_round([row for row in rows if self._path(row["round"]).is_file()], monitor)

    def load(self, server_round: int) -> Snapshot:
        """Return the state after a round.

        Raises
        ------
        RunError
            If it cannot be read.
        """
        from fedsplit.snapshot import load

        return load(self._path(server_round))

    def load_last(self) -> Snapshot | None:
        """Return the newest state that is whole, by its checksum."""
        from fedsplit.snapshot import load

        return next((state for _, state in self._readable(load)), None)

    def last(self) -> tuple[int, Snapshot] | None:
        """Return the newest readable checkpoint: its round, and its state without the tensors."""
        from fedsplit.snapshot import load_values

        return next(self._readable(load_values), None)

    def _readable(self, read: Callable[[Path], Snapshot]) -> Iterator[tuple[int, Snapshot]]:
        """Yield the checkpoints that can be read, from the newest."""
        for server_round in reversed(self.rounds()):
            try:
                found = read(self._path(server_round))
                _check_kinds(found, self._path(server_round))
            except RunError as error:
                _logger.warning("%s The checkpoint before it is used instead.", error)
            else:
                yield server_round, found

    def remove_after(self, server_round: int) -> None:
        """Remove the checkpoints of later rounds, and what an interrupted process has left."""
        remove_partial(self.folder)
        for later in self.rounds():
            if later > server_round:
                self._path(later).unlink(missing_ok=True)

    def _path(self, server_round: int) -> Path:
        return self.folder / f"round-{server_round:06d}.safetensors"


def _check_kinds(state: Mapping[str, Any], path: Path) -> None:
    """Refuse a state that is whole by its checksum, and that no run has saved."""
    for name, kind in _KINDS.items():
        *parents, key = name.split("/")
        of: Mapping[str, Any] = state
        for parent in parents:
            of = of.get(parent, {})
        if key in of and not isinstance(of[key], kind):
            raise RunError(
                f"'{path}' is not what a run has saved: its {name} is {of[key]!r:.40}, no "
                f"{kind.__name__}."
            )
