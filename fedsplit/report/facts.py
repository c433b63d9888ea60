"""The facts of runs: what was asked, which versions, where and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedsplit.config import Scalar
from fedsplit.fields import ENVIRONMENT_KEYS, FIELDS
from fedsplit.report.gather import RunRecord
from fedsplit.results.summary import weights_of

_PACKAGES = ("fedsplit", "torch", "flwr")
_PLACE = ("output-dir", "run-name", "resume")
NOT_KNOWN = "not known"


def keys_in_words(changed: Mapping[str, Scalar]) -> str:
    """Return keys that differ from their defaults, without those that say where the run is."""
    shown = [f"{key} = {_plain(value)}" for key, value in changed.items() if key not in _PLACE]
    return ", ".join(shown) or "none"


def facts_of(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return the facts that all runs have: weights, versions, engine, place and time.

    A run of an older version does not know all of them.
    """
    summaries = [record.summary for record in records]
    facts = {"Weights": _distinct(weights_of(summary) for summary in summaries)}
    facts["Versions"] = ", ".join(
        f"{package} {_distinct(str(s[f'{package}_version'] or NOT_KNOWN) for s in summaries)}"
        for package in _PACKAGES
    )
    facts["Engine"] = _distinct(str(summary["engine"]) for summary in summaries)
    for key in ENVIRONMENT_KEYS:
        if key == "code_sha256" and not any(summary.get(key) for summary in summaries):
            continue  # fedsplit's own algorithms, model and data
        label = FIELDS[key].label
        facts[label[0].upper() + label[1:]] = _place(key, summaries)
    return facts


def _place(key: str, summaries: Sequence[Mapping[str, Any]]) -> str:
    values = [str(summary.get(key) or NOT_KNOWN) for summary in summaries]
    if key == "started_at" and len(values) > 1:
        known = sorted(value for value in values if value != NOT_KNOWN)
        return f"{known[0]} to {known[-1]}" if known else NOT_KNOWN
    return _distinct(values)


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'
