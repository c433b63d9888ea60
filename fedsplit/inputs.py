"""What a run reads from outside, and how one that continues notices that it has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    validation : Mapping[int, int]
        Partition id -> images that the client holds out.
    """

    class_counts: Mapping[int, Sequence[int]]
    shards: Mapping[int, str]
    test: str
    model: str
    validation: Mapping[int, int]

    @classmethod
    def of(cls, prepared: Preparation, clients: Clients) -> Inputs:
        """Return those of a run that is about to begin or to continue."""
        digest = prepared.given_digest or prepared.frozen_digest(split=False)
        return cls(
            clients.class_counts,
            clients.digests,
            digest_of(prepared.test),
            f"{digest} {prepared.spec}",
            clients.validation,
        )

    def state_dict(self) -> Snapshot:
        """Return what a checkpoint keeps."""
        return {
            "class_counts": {str(client): list(each) for client, each in self.class_counts.items()},
            "shards": {str(client): digest for client, digest in self.shards.items()},
            "test": self.test,
            "model": self.model,
            "validation": {str(client): count for client, count in self.validation.items()},
        }

    def continuing(self, saved: Snapshot, clients: Clients) -> tuple[Inputs, Clients]:
        """Return the inputs and clients of a run that continues, with all that the run has known.

        A site that is left out now is known by what it held before: its images have been trained
        on, and they must be the same when it is back.

        Parameters
        ----------
        saved : Snapshot
            What `state_dict` returned.
        clients : Clients
            Those that have answered now.

        Raises
        ------
        ConfigError
            If the inputs are others (see `check_same`).
        """
        self.check_same(saved)
        counts = {k: saved["class_counts"][str(k)] for k in clients.class_counts}
        validation = {int(k): count for k, count in saved.get("validation", {}).items()}
        away = [k for k, now in clients.class_counts.items() if any(counts[k]) and not any(now)]
        known = replace(
            clients,
            class_counts={**clients.class_counts, **{k: counts[k] for k in away}},
            digests={**clients.digests, **{k: saved["shards"][str(k)] for k in away}},
            validation={**clients.validation, **{k: validation.get(k, 0) for k in away}},
        )
        inputs = replace(
            self,
            class_counts=known.class_counts,
            shards=known.digests,
            validation=known.validation,
        )
        return inputs, known

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
