"""What a comparison's run was made with beside its config: the user's own code, and the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fedsplit.config import Config
from fedsplit.data.catalog import load_images
from fedsplit.data.digest import digest_if_readable
from fedsplit.data.run import reading
from fedsplit.data.shards import Shard, look_at_shard, look_at_test
from fedsplit.initial_model import model_of, spec_of
from fedsplit.names import some
from fedsplit.own_code import code_digest
from fedsplit.results.files import read_object
from fedsplit.results.run_directory import RunDirectory

_SPLITS = ("train", "validation", "test")
_TEST = "the test set"


@dataclass(frozen=True)
class MadeWith:
    """Code and images of a run; what an earlier version did not write down is not known.

    Attributes
    ----------
    code : str | None
        The digest of the user's own code.
    images : Mapping[str, int]
        Split -> images.
    class_counts : Mapping[str, list[int]]
        Client -> training images of each class.
    digests : Mapping[str, str]
        ``client 0`` and so on, and ``the test set`` -> digest of the images.
    """

    code: str | None
    images: Mapping[str, int]
    class_counts: Mapping[str, list[int]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def differences(self, now: MadeWith) -> Iterator[str]:
        """Yield in words what is not as it is now."""
        if self.code != now.code:
            yield "your own code, which has changed since"
        changed = [
            f"{count:,} images to {split}, now {now.images[split]:,}"
            for split, count in self.images.items()
            if count != now.images[split]
        ]
        counts = [
            f"client {client}"
            for client, count in self.class_counts.items()
            if count != now.class_counts.get(client)
        ]
        if counts and not changed:
            changed = [f"other classes of the images of {some(counts)}"]
        others = [
            whose
            for whose, digest in self.digests.items()
            if digest and now.digests.get(whose) and digest != now.digests[whose]
        ]
        if others and not changed:
            changed = [f"other images of {some(others)}"]
        if changed:
            yield f"the data set, which has changed since: {', '.join(changed)}"


def made_with(kept: RunDirectory) -> MadeWith | None:
    """Return what a run was made with; None if nothing of it is kept, so that it begins again.

    Raises
    ------
    OSError, ValueError
        If its summary.json cannot be read, or says of its images what no run writes.
    """
    last = kept.checkpoints.last()
    inputs: Mapping[str, Any] = {} if last is None else last[1].get("inputs", {})
    facts: Mapping[str, Any]
    if kept.summary_path.is_file():
        facts = read_object(kept.summary_path)
    elif last is not None:
        facts = last[1]["recorder"]["facts"]
    else:
        return None
    counts = {split: facts.get(f"num_{split}_examples") for split in _SPLITS}
    for split, count in counts.items():
        if count is not None and type(count) is not int:
            raise ValueError(f"num_{split}_examples is {count!r:.40}, no number")
    digests = {f"client {client}": each for client, each in inputs.get("shards", {}).items()}
    if "test" in inputs:
        digests[_TEST] = inputs["test"]
    return MadeWith(
        facts.get("code_sha256"),
        {split: count for split, count in counts.items() if count is not None},
        inputs.get("class_counts", {}),
        digests,
    )


class Present:
    """What runs would be made with now. Runs that read the same images are looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], MadeWith] = {}

    def of(self, config: Config) -> MadeWith:
        """Return what a run of this config would be made with.

        Raises
        ------
        FedSplitError
            If the images cannot be read or divided.
        """
        values = config.to_flat()
        data = tuple(item for item in values.items() if item[0].startswith("data."))
        model = (config.model.name, config.model.image_size, config.model.trust)
        code = code_digest(config)
        key = (data, config.seed, config.num_clients, model, code)
        if key not in self._known:
            with reading(config.data):
                self._known[key] = _look(config, code)
        return self._known[key]


def _look(config: Config, code: str | None) -> MadeWith:
    spec = spec_of(config, model_of(config))
    classes, clients = len(load_images(config.data).class_names), range(config.num_clients)
    shards = {str(k): look_at_shard(config, k, config.num_clients, spec) for k in clients}
    test = look_at_test(config, spec)
    digests = {f"client {k}": digest_if_readable(*shard) for k, shard in shards.items()}
    return MadeWith(
        code,
        {
            "train": sum(len(shard.train) for shard in shards.values()),
            "validation": sum(len(shard.validation) for shard in shards.values()),
            "test": len(test),
        },
        {k: _class_counts(shard, classes) for k, shard in shards.items()},
        {**digests, _TEST: digest_if_readable(test)},
    )


def _class_counts(shard: Shard, classes: int) -> list[int]:
    found: list[int] = torch.bincount(shard.train.labels, minlength=classes).tolist()
    return found
