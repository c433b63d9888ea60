"""Check what the files of a run or comparison hold before anything is made of it.

They may be damaged, or somebody else's. What a report raises later is a defect of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from fedsplit.config.errors import findings
from fedsplit.fields import BYTE_KEYS, ENVIRONMENT_KEYS, ROW_KEYS, SUMMARY_KEYS, Metric

_STRICT = ConfigDict(strict=True)
_LARGEST = 1e100  # sums and squares of such numbers are finite

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]

_COUNTS = (
    *("num_rounds", "finished_rounds", "seed", "num_clients", "failed_clients"),
    *("num_train_examples", "num_validation_examples", "num_test_examples"),
    *("client_parameters", "server_parameters", "client_flops_per_sample"),
    *(key for key in BYTE_KEYS if not key.startswith(("kept_", "resent_"))),
)
_TEXTS = ("strategy", "model", "dataset", "partitioner", "engine")
_TEXTS_OR_NOT = (
    *("topology", "weights_sha256", "final_weights_sha256", "network_profile", "run_directory"),
    *("fedsplit_version", "torch_version", "flwr_version", *ENVIRONMENT_KEYS),
)
_KINDS: dict[str, Any] = {
    **dict.fromkeys(SUMMARY_KEYS, (Number | None, None)),  # what is not listed below
    **dict.fromkeys(_COUNTS, (Count, ...)),
    **dict.fromkeys(_TEXTS, (str, ...)),
    **dict.fromkeys(_TEXTS_OR_NOT, (str | None, None)),
    "pretrained": (bool, ...),
    "stopped_early": (bool, False),
    "cut_layer": (Count | None, ...),
    "best_round": (Count | None, None),
    "class_accuracy": (list[Number | None] | None, None),
    "confusion_matrix": (list[list[Count]] | None, None),
}
_SUMMARY = create_model("_SUMMARY", __config__=_STRICT, **_KINDS)
_ROW_KINDS: dict[str, Any] = {
    **dict.fromkeys(ROW_KEYS, (Number | None, None)),
    "round": (Count, ...),
    "failed_clients": (list[Count] | None, None),
    "num_examples": (Count | None, None),
}
_ROW = create_model("_ROW", __config__=_STRICT, **_ROW_KINDS)


class _OfPhase(BaseModel):
    """What the clients have measured in one phase of a round: a column for each value."""

    model_config = ConfigDict(strict=True, extra="forbid")
    clients: list[Count]
    accuracy: list[Number]
    examples: list[Count] = []
    loss: list[Number | None] = []


class _OfClients(BaseModel):
    """A line of clients.jsonl."""

    model_config = _STRICT
    round: Count
    train: _OfPhase = _OfPhase(clients=[], accuracy=[])
    validation: _OfPhase = _OfPhase(clients=[], accuracy=[])


def of_kind(value: object, kind: Any, where: str) -> Any:  # noqa: ANN401 - a model or a type
    """Return a value as what it must be, which is any type that pydantic knows.

    Raises
    ------
    ValueError
        Names the first key that is wrong, its value and what it must be.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"in {where}, {findings(error, [])[0]}") from None


def checked_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of rounds.jsonl, with None for what an earlier version did not write.

    Raises
    ------
    ValueError
        Names the first line, and what is wrong with it.
    """
    for number, row in enumerate(rows, start=1):
        of_kind(row, _ROW, f"line {number} of rounds.jsonl")
        if row["round"] != number:
            raise ValueError(f"line {number} of rounds.jsonl is that of round {row['round']}")
    return [{**row, **_lacking(row, ROW_KEYS)} for row in rows]


def checked_summary(summary: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the summary of a run, with None for what an earlier version did not write.

    Raises
    ------
    ValueError
        Names what is wrong.
    """
    of_kind(summary, _SUMMARY, "summary.json")
    found = {**summary, **_lacking(summary, [key for key in _KINDS if key not in BYTE_KEYS])}
    if found["pretrained"] and not found["weights_sha256"]:
        raise ValueError("in summary.json, weights_sha256 is lacking: pretrained = true")
    accuracies, matrix = found["class_accuracy"], found["confusion_matrix"]
    lengths = [len(each) for each in (accuracies, matrix, *(matrix or ())) if each is not None]
    if class_names and any(length != len(class_names) for length in lengths):
        raise ValueError(
            "in summary.json, class_accuracy or confusion_matrix is not that of the "
            f"{len(class_names)} classes in shards.json"
        )
    return found


def check_metrics(
    metrics: Sequence[Metric], rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> None:
    """Refuse values of declared metrics that are no numbers.

    Raises
    ------
    ValueError
        Names the metric.
    """
    places = [("summary.json", summary)]
    places += [(f"line {number} of rounds.jsonl", row) for number, row in enumerate(rows, start=1)]
    values = dict[str, Number | None]
    for where, of in places:
        of_kind({m.key: of[m.key] for m in metrics if m.key in of}, values, where)


def check_clients(lines: Sequence[Mapping[str, Any]], num_clients: int) -> None:
    """Refuse what no run writes into clients.jsonl.

    Raises
    ------
    ValueError
        Names the first line, and what is wrong with it.
    """
    for number, line in enumerate(lines, start=1):
        where = f"line {number} of clients.jsonl"
        of_kind(line, _OfClients, where)
        for phase in ("train", "validation"):
            columns = line.get(phase, {})
            if len({len(column) for column in columns.values()}) > 1:
                raise ValueError(f"in {where}, the columns of {phase} have different lengths")
            if any(client >= num_clients for client in columns.get("clients", ())):
                raise ValueError(f"in {where}, {phase} has a client of more than {num_clients}")


def _lacking(found: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return dict.fromkeys(key for key in keys if key not in found)
