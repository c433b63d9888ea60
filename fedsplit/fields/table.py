"""The built-in fields: each key, label and unit is written here and nowhere else."""

from __future__ import annotations

from typing import Literal

from fedsplit.fields.field import BuiltIn, Form, Place

Purpose = Literal["cut", "evaluate", "sync"]
"""What bytes cross for: training steps at the cut, evaluation, synchronising weights."""


def _field(
    key: str,
    label: str,
    *shown: Place,
    unit: str = "",
    clients: Literal["sum", "mean", "max", "none"] = "none",
    rounds: Literal["sum", "none"] = "none",
    form: Form = "auto",
    short: str = "",
) -> BuiltIn:
    # A sum without any term is 0, but a time that nobody has taken is unknown.
    default = 0 if rounds == "sum" and unit != "s" else None
    return BuiltIn(
        key,
        label,
        unit,
        over_clients=clients,
        over_rounds=rounds,
        short=short,
        form=form,
        shown=frozenset(shown),
        default=default,
    )


def _score(
    key: str, label: str, *shown: Place, clients: Literal["mean", "none"] = "none", short: str = ""
) -> BuiltIn:
    return _field(key, label, *shown, clients=clients, form="score", short=short)


def _bytes(key: str, label: str, *shown: Place, short: str) -> BuiltIn:
    places: tuple[Place, ...] = ("rounds", "summary", *shown)
    return _field(key, label, *places, unit="B", clients="sum", rounds="sum", short=short)


ROUND_FIELDS: tuple[BuiltIn, ...] = (
    _field("round", "round", "rounds", form="count"),
    _score("train_loss", "train loss", "log", "rounds", clients="mean"),
    _score("train_accuracy", "train accuracy", clients="mean"),
    _score("test_loss", "test loss", "rounds"),
    _score("test_accuracy", "test accuracy", "log", "rounds", short="test acc"),
    _score("test_balanced_accuracy", "balanced test accuracy"),
    _score("validation_loss", "validation loss", clients="mean"),
    _score(
        "validation_accuracy",
        "validation accuracy",
        "log",
        "rounds",
        clients="mean",
        short="val acc",
    ),
    _field("num_participants", "participants", form="count"),
    _field("failed_clients", "failed clients", "time", rounds="sum", form="count"),
    _field("num_examples", "examples", clients="sum", form="count"),
    _bytes("cut_uplink_bytes", "cut uplink", "log", "traffic", short="cut up"),
    _bytes("cut_downlink_bytes", "cut downlink", "log", "traffic", short="cut down"),
    _bytes("evaluate_uplink_bytes", "evaluation uplink", short="eval up"),
    _bytes("evaluate_downlink_bytes", "evaluation downlink", short="eval down"),
    _bytes("sync_uplink_bytes", "sync uplink", "traffic", short="sync up"),
    _bytes("sync_downlink_bytes", "sync downlink", "traffic", short="sync down"),
    _bytes("kept_uplink_bytes", "client state uplink", short="state up"),
    _bytes("resent_bytes", "sent again", short="sent again"),
    _field(
        "simulated_communication_seconds",
        "communication, simulated",
        "summary",
        "time",
        unit="s",
        clients="max",
        rounds="sum",
    ),
    _field(
        "communication_seconds",
        "communication, measured",
        "summary",
        "time",
        unit="s",
        clients="max",
        rounds="sum",
    ),
    _field("train_seconds", "training time", unit="s"),
    _field("evaluate_seconds", "evaluation time", unit="s"),
    _field("round_seconds", "round time", "rounds", unit="s", short="time"),
)
"""The keys of a row of rounds.jsonl, in order; what a round did not report is None."""

ROW_KEYS = tuple(field.key for field in ROUND_FIELDS)
TOTAL_FIELDS = tuple(field for field in ROUND_FIELDS if field.over_rounds != "none")
"""The fields of a round that the summary has for the whole run."""
_BYTES = tuple(field for field in TOTAL_FIELDS if field.unit == "B")
BYTE_KEYS = tuple(field.key for field in _BYTES)
"""What crossed, by purpose and direction: exact serialized lengths."""

_START_FIELDS: tuple[BuiltIn, ...] = (
    _field("pretrained", "pretrained"),
    _field("weights_sha256", "SHA-256 of the initial weights"),
    _field("num_clients", "clients"),
    _field("num_train_examples", "training images", form="count"),
    _field("num_validation_examples", "validation images", form="count"),
    _field("num_test_examples", "test images", form="count"),
    _field("engine", "engine"),
    _field("cut_layer", "cut layer"),
    _field("client_parameters", "client parameters", "summary", "sides"),
    _field("server_parameters", "server parameters", "summary", "sides"),
    _field("client_trainable_parameters", "trainable client parameters", "sides"),
    _field("server_trainable_parameters", "trainable server parameters", "sides"),
    _field("client_flops_per_sample", "client FLOPs per sample", "summary", "sides", unit="FLOP"),
    _field("server_flops_per_sample", "server FLOPs per sample", "summary", "sides", unit="FLOP"),
    _field("client_memory_bytes", "client memory", "summary", "sides", unit="B"),
    _field("server_memory_bytes", "server memory", "summary", "sides", unit="B"),
)
_ENVIRONMENT_FIELDS: tuple[BuiltIn, ...] = (
    _field("started_at", "started"),
    _field("device", "device"),
    _field("cpu", "CPU"),
    _field("commit", "commit"),
    _field("code_sha256", "SHA-256 of own code"),
)
ENVIRONMENT_KEYS = tuple(field.key for field in _ENVIRONMENT_FIELDS)
"""The keys of summary.json that say where and when a run was made."""
START_KEYS = ("partitioner", *(f.key for f in (*_START_FIELDS, *_ENVIRONMENT_FIELDS)))
"""The keys of summary.json that are known before the first round (`Recorder.start`)."""

SUMMARY_FIELDS: tuple[BuiltIn, ...] = (
    _field("strategy", "strategy"),
    _field("model", "model"),
    _field("dataset", "data"),
    _field("partitioner", "partitioner"),
    _field("num_rounds", "rounds"),
    _field("finished_rounds", "finished rounds"),
    _field("stopped_early", "stopped early"),
    _field("seed", "seed"),
    *_START_FIELDS,
    _field("topology", "topology"),
    _score("initial_accuracy", "test accuracy before training", "summary"),
    _score("initial_loss", "test loss before training"),
    _score("final_accuracy", "final test accuracy", "summary", "scores", short="final"),
    _score("final_loss", "final test loss"),
    _field("final_weights_sha256", "SHA-256 of the final weights"),
    _score(
        "final_balanced_accuracy",
        "final balanced test accuracy",
        *("summary", "scores"),
        short="balanced",
    ),
    _field("class_accuracy", "test accuracy of each class"),
    _field("confusion_matrix", "confusion matrix of the test set"),
    _score("best_accuracy", "best test accuracy", "summary", "scores", short="best"),
    _field("best_round", "best round", form="count"),
    *_BYTES,
    _field("network_profile", "network profile"),
    *(field for field in TOTAL_FIELDS if field.unit == "s"),
    *(field for field in TOTAL_FIELDS if field.key == "failed_clients"),
    _field("wall_seconds", "wall time", "time", unit="s"),
    _field("train_samples_per_second", "training samples/s", "summary", "time", form="count"),
    _field("seconds_per_client_round", "time per client-round", "time", unit="s", form="number"),
    _field("run_directory", "run directory"),
    _field("fedsplit_version", "fedsplit version"),
    _field("torch_version", "torch version"),
    _field("flwr_version", "flwr version"),
    *_ENVIRONMENT_FIELDS,
)
"""The keys of summary.json, in order."""

SUMMARY_KEYS = tuple(field.key for field in SUMMARY_FIELDS)
FIELDS = {field.key: field for field in (*ROUND_FIELDS, *SUMMARY_FIELDS)}
"""Every built-in field by its key."""


def fields_shown_in(place: Place) -> tuple[BuiltIn, ...]:
    """Return the fields that a table, line or picture shows, in its order."""
    rows = ROUND_FIELDS if place in {"log", "rounds"} else SUMMARY_FIELDS
    return tuple(field for field in rows if place in field.shown)


def traffic_fields(purpose: Purpose) -> tuple[BuiltIn, BuiltIn]:
    """Return the bytes that cross for one purpose: uplink, then downlink."""
    return FIELDS[f"{purpose}_uplink_bytes"], FIELDS[f"{purpose}_downlink_bytes"]
