"""What a run's data is between its start and its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedsplit.config import DataConfig
from fedsplit.data import catalog, shards
from fedsplit.data.sources import FunctionResult, Source, held, is_held


@contextmanager
def reading(data: DataConfig) -> Iterator[None]:
    """Let everything in this process that reads a data set read the same state of it.

    A run is one such block. It looks at a folder, or calls a function of the user's own, once;
    whatever changes before the block ends is for the next run. Blocks may be nested.

    Parameters
    ----------
    data : DataConfig
        Names the data set.

    Raises
    ------
    FedSplitError
        If there is no such data set, or its function does not return one.
    """
    source: Source | None = None
    try:
        with held(data.name, data.config_name) as source:
            yield
    finally:
        # Nobody can ask for a function's result again: do not keep its images in memory.
        if isinstance(source, FunctionResult) and not is_held(source):
            catalog.forget(source)
            shards.forget(source)
