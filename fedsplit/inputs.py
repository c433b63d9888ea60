"""What a run reads from outside, and how one that continues notices that it has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsplit.data.digest import digest_of
from fedsplit.errors import ConfigError
from fedsplit.preparation import Preparation
from fedsplit.snapshot import Snapshot
from strategies.clients import Clients


@dataclass(frozen=True)
class Inputs:
    """Counts and digests of what a run reads.

    Attributes
    ----------
    class_counts : Mapping[int, Sequence[int]]
        Partition id -> training images of each class.
    shards : Mapping[int, str]
        Partition id -> digest of the client's images.
    test : str
        Digest of the test images.
    model : str
        Digest of the frozen weights, of an object all weights, and how images are fitted to the
        model.
    """

    class_counts: Mapping[int, Sequence[int]]
    shards: Mapping[int, str]
    test: str
    model: str

    @classmethod
    def of(cls, prepared: Preparation, clients: Clients) -> Inputs:
        """Return those of a run that is about to begin or to continue."""
        digest = prepared.given_digest or prepared.frozen_digest(split=False)
        return cls(
            clients.class_counts,
            clients.digests,
            digest_of(prepared.test),
            f"{digest} {prepared.spec}",
        )

    def state_dict(self) -> Snapshot:
        """Return what a checkpoint keeps."""
        return {
            "class_counts": {str(client): list(each) for client, each in self.class_counts.items()},
            "shards": {str(client): digest for client, digest in self.shards.items()},
            "test": self.test,
            "model": self.model,
        }

    def check_same(self, saved: Snapshot) -> None:
        """Refuse to continue with other inputs than those of `state_dict`.

        Raises
        ------
        ConfigError
            Names what differs: the first client, the test images or the model.
        """
        then = {int(client): counts for client, counts in saved["class_counts"].items()}
        for client in sorted(then.keys() | self.class_counts.keys()):
            was, now = then.get(client), self.class_counts.get(client)
            if was and now and not (any(was) and any(now)):
                continue  # a site that was left out, then or now: it has no images then
            if was is None or now is None or list(was) != list(now):
                raise ConfigError(
                    f"Client {client} holds {_images(now)}, but held {_images(was)} so far (images "
                    "of each class). Continue with the data set and the clients that began the run."
                )
        others = [
            *(
                f"client {k}"
                for k in sorted(then)
                if _differ(saved["shards"][str(k)], self.shards[k])
            ),
            *(["the test set"] if saved["test"] != self.test else []),
        ]
        if others:
            raise ConfigError(
                f"The images of {', '.join(others)} are not those with which the run began. "
                "Continue with the same files or objects, and the same versions of the libraries "
                "that decode them."
            )
        if saved["model"] != self.model:
            raise ConfigError(
                "The frozen weights of model.name (of a module, all of its first weights), or the "
                "size and normalisation of its images, are not those with which the run began. "
                "Continue with the model as it was."
            )


def _differ(was: str, now: str) -> bool:
    """Return whether digests show that images differ; one that could not be made shows nothing."""
    return bool(was and now) and was != now


def _images(counts: Sequence[int] | None) -> str:
    return "nothing" if counts is None else str(list(counts))
