"""Images on a disk that breaks."""

from collections.abc import Callable
from typing import cast

from torch import Tensor

from fedsplit.data.loader import Images
from fedsplit.data.shards import Shard


class Unreadable:
    """Images of which only the first batch can be read."""

    def __init__(self, images: Images) -> None:
        self.labels = images.labels
        self._images = images
        self._batches_read = 0

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch, but only once."""
        if self._batches_read:
            raise OSError("the disk is broken")
        self._batches_read += 1
        return self._images.batch(indices)


def broken_for(client: int, load_shard: Callable[..., Shard]) -> Callable[..., Shard]:
    """Return `load_shard` with training images that break for one client."""

    def load(config: object, partition_id: int, *others: object) -> Shard:
        shard = load_shard(config, partition_id, *others)
        if partition_id != client:
            return shard
        return shard._replace(train=cast(Images, Unreadable(shard.train)))

    return load
