"""A process that is killed in the middle of a round, by a client that reads its images."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, cast

from flwr.app import Message
from torch import Tensor

from fedsplit import client_app
from fedsplit.data.loader import Images
from fedsplit.data.shards import Shard
from fedsplit.messages import CONFIG, Instructions
from tests.e2e.processes import processes_of


@dataclass(frozen=True)
class Kill:
    """Which process dies, and when: once, at a client's second batch, or its first to evaluate.

    Attributes
    ----------
    process : str
        Part of its command line; empty = the one that reads the batch.
    phase : str
        "train" or "evaluate".
    client, server_round : int
        Whose batch it is, and in which round.
    number : int
        The signal: SIGKILL, or SIGSTOP for one that sleeps.
    """

    process: str
    phase: str = "train"
    client: int = 1
    server_round: int = 2
    number: int = signal.SIGKILL

    def write(self, home: Path) -> None:
        """Arm it for the processes whose FLWR_HOME is a folder."""
        (home / "kill.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls) -> Self | None:
        """Return the one that is armed for this process."""
        path = Path(os.environ["FLWR_HOME"], "kill.json")
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def now(self) -> None:
        """Kill, if nobody has done so yet."""
        home = Path(os.environ["FLWR_HOME"])
        try:
            (home / "kill.json").rename(home / "killed.json")
        except FileNotFoundError:
            return
        for pid in processes_of(home, self.process) if self.process else [os.getpid()]:
            os.kill(pid, self.number)


class _Killing:
    """Images of which a batch is not read by everybody."""

    def __init__(self, images: Images, kill: Kill) -> None:
        self.labels = images.labels
        self._images, self._kill, self._batches_read = images, kill, 0

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch, and kill before that."""
        self._batches_read += 1
        if self._batches_read == (2 if self._kill.phase == "train" else 1):
            self._kill.now()
        return self._images.batch(indices)


@contextmanager
def killing_images(message: Message) -> Iterator[None]:
    """Let the images of this message's client kill, if it is the one, and this the round."""
    kill, record = Kill.read(), message.content[CONFIG]
    told = Instructions.from_record(record)  # type: ignore[arg-type]
    phase = message.metadata.message_type.partition(".")[0]
    if kill is None or (phase, told.server_round) != (kill.phase, kill.server_round):
        yield
        return
    load_shard: Callable[..., Shard] = vars(client_app)["load_shard"]

    def load(config: object, partition_id: int, *others: object) -> Shard:
        shard = load_shard(config, partition_id, *others)
        if partition_id != kill.client:
            return shard
        killing = [cast(Images, _Killing(images, kill)) for images in shard]
        return shard._replace(train=killing[0], validation=killing[1])

    vars(client_app)["load_shard"] = load
    try:
        yield
    finally:
        vars(client_app)["load_shard"] = load_shard
