"""The messages between server and clients that Flower carries, and how they become its records.

Names of fields are written here and nowhere else. A record with an unknown or a missing field, or
with a value of another type, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

from flwr.app import ConfigRecord, MetricRecord
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsplit.errors import RunError, shorten

DESCRIBE = "query.describe"
"""The type of the message that asks a node who it is."""

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
"""The names of the records in a message."""

KEPT_RECORDS = ("kept-optimizer", "kept-rule")
"""The records of what a client keeps between rounds, in its state and in messages."""
KEPT_BYTES = "state"
"""The field of such a record that holds the bytes (see `fedsplit.snapshot`)."""
KEPT_WEIGHTS = "kept-weights"
"""The record of the weights that a client keeps, in its state and in messages."""
KEPT_ROUND = "kept-round"
"""The record of the round in which a client made what it keeps, and the record's only field."""

SERVER_ROUND, PROXIMAL_MU = "server-round", "proximal-mu"
"""What Flower's own strategies write into the config of a message."""

NUM_EXAMPLES, LOSS, ACCURACY, CHANNEL_SECONDS = (
    "num-examples",
    "loss",
    "accuracy",
    "channel-seconds",
)
"""What every reply measures."""

_Count = Annotated[int, Field(ge=0, le=10**9)]
"""More images, or clients, than anybody has."""


class _Fields(BaseModel):
    model_config = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )

    sender: ClassVar[str]

    def to_record(self) -> ConfigRecord:
        """Return the record that Flower sends."""
        return ConfigRecord(self.model_dump(by_alias=True))

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Self:
        """Reverse `to_record`.

        Raises
        ------
        RunError
            If a field is unknown, missing, or of another type.
        """
        try:
            return cls.model_validate(dict(record))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
            )
            raise RunError(
                f"A message from the {cls.sender} is invalid ({shorten(faults)}). Server and "
                "clients must run the same version of fedsplit."
            ) from None


class Instructions(_Fields):
    """What a message tells a client.

    Attributes
    ----------
    run : str
        Identifies the run. A client uses what a model function made for one run only.
    num_clients, num_labels : int
        Of the run.
    server_round : int
        From 1; 0 before the first round.
    client_rule : str
        Which client rule to use, as ``package.module:name``.
    frozen_sha256 : str
        The digest of what is frozen at the client; empty if nothing is.
    proximal_mu : float
        FedProx's mu; 0 = none.
    channel_address, channel_token : str
        Where the split server is, and what opens a stream; empty without a stream.
    answer_seconds : float
        How long to wait for the connection and for each answer of the split server.
    class_weights : Sequence[float]
        The factor of each class in the loss; empty = 1.
    class_names : Sequence[str]
        The run's classes, to which a client with images of its own matches them by name.
    images : str
        The images that the model takes, as the server makes them; empty = not compared.
    returns_kept : bool
        Whether the reply has a copy of what the client keeps between rounds.
    kept_round : int
        The round of what the client keeps: its last that counted; 0 = none; -1 = any.
    """

    sender = "server"

    run: str
    num_clients: Annotated[int, Field(ge=1)]
    num_labels: Annotated[int, Field(ge=1)]
    server_round: _Count = 0
    client_rule: str
    frozen_sha256: str = ""
    proximal_mu: Annotated[float, Field(ge=0.0)] = 0.0
    channel_address: str = ""
    channel_token: str = ""
    answer_seconds: Annotated[float, Field(ge=0.0)] = 0.0
    class_weights: list[Annotated[float, Field(ge=0.0)]] = []
    class_names: list[str] = []
    images: str = ""
    returns_kept: bool = False
    kept_round: Annotated[int, Field(ge=-1)] = -1


class Description(_Fields):
    """What a client says about itself.

    Attributes
    ----------
    partition_id : int
        Its number, from 0.
    class_counts : Sequence[int]
        Training images of each class; all 0 for a node that takes no part.
    num_validation : int
        Images that it holds out for federated evaluation.
    digest : str
        Of its images, if the run writes checkpoints (see `fedsplit.data.digest`).
    channel_fault : str
        Why it cannot reach the split server; empty if it could, or was not asked to.
    own_images : bool
        Whether its training images are of a folder of its own, and no shard of data.name.
    """

    sender = "client"

    partition_id: _Count
    class_counts: Annotated[list[_Count], Field(min_length=1)]
    num_validation: _Count = 0
    digest: Annotated[str, Field(max_length=64)] = ""
    channel_fault: Annotated[str, Field(max_length=1100)] = ""  # see `shorten`
    own_images: bool = False


class Measurements(BaseModel):
    """What a client has measured in a round of training or evaluation.

    Attributes
    ----------
    num_examples : int
        Examples it has trained on or scored.
    loss, accuracy : float
        Means over these examples.
    channel_seconds : float
        How long it waited for the split server's answers.
    metrics : Mapping[str, float]
        The values of its rule's own metrics, by key.
    """

    model_config = ConfigDict(frozen=True)

    num_examples: int
    loss: float
    accuracy: float
    channel_seconds: float
    metrics: Mapping[str, float] = {}

    def to_record(self) -> MetricRecord:
        """Return the record that Flower sends."""
        return MetricRecord(
            {
                NUM_EXAMPLES: self.num_examples,
                LOSS: self.loss,
                ACCURACY: self.accuracy,
                CHANNEL_SECONDS: self.channel_seconds,
                **self.metrics,
            }
        )

    @classmethod
    def from_record(cls, record: MetricRecord, metrics: Sequence[str] = ()) -> Self:
        """Reverse `to_record`.

        Parameters
        ----------
        record : MetricRecord
            The received record.
        metrics : Sequence[str]
            The keys of the rule's own metrics that must be there.

        Raises
        ------
        ValueError
            The message says what is wrong, as the end of a sentence about the reply.
        """
        expected = {NUM_EXAMPLES, LOSS, ACCURACY, CHANNEL_SECONDS, *metrics}
        if set(record) != expected:
            raise ValueError(f"its metrics are {sorted(record)}, not {sorted(expected)}")
        count = record[NUM_EXAMPLES]
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"its reply has num-examples = {count!r}, not a whole number")
        waited = record[CHANNEL_SECONDS]
        if not isinstance(waited, float) or not 0 <= waited < math.inf:
            raise ValueError(
                f"its reply has channel-seconds = {waited!r}, not a finite number of at least 0"
            )
        loss, accuracy = _scores(record[LOSS], record[ACCURACY])
        return cls(
            num_examples=count,
            loss=loss,
            accuracy=accuracy,
            channel_seconds=waited,
            metrics={key: _metric(key, record[key]) for key in metrics},
        )


def _scores(loss: object, accuracy: object) -> tuple[float, float]:
    told = f"its loss and accuracy are {loss!r} and {accuracy!r}"
    if not (isinstance(loss, float) and isinstance(accuracy, float)):
        raise ValueError(f"{told}, not finite numbers")
    if not (math.isfinite(loss) and math.isfinite(accuracy)):
        raise ValueError(f"{told}, not finite numbers; lower learning-rate")
    if loss < 0 or not 0 <= accuracy <= 1:
        raise ValueError(f"{told}, but a loss is at least 0 and an accuracy from 0 to 1")
    return loss, accuracy


def _metric(key: str, value: object) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"its metric '{key}' is {value!r}, not a finite number")
