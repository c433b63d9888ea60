from __future__ import annotations

from pathlib import Path

import fedsplit
from fedsplit.fields import (
    BYTE_KEYS,
    FIELDS,
    ROUND_FIELDS,
    ROW_KEYS,
    SUMMARY_KEYS,
    TOTAL_FIELDS,
    Purpose,
    fields_shown_in,
    traffic_fields,
)

SOURCES = Path(fedsplit.__file__).parent


def test_no_key_stands_twice_in_a_table() -> None:
    assert len(set(ROW_KEYS)) == len(ROW_KEYS)
    assert len(set(SUMMARY_KEYS)) == len(SUMMARY_KEYS)
    labels = [field.label for field in FIELDS.values()]
    assert sorted({label for label in labels if labels.count(label) > 1}) == []


def test_a_field_of_both_tables_is_one_object() -> None:
    """Break it: write failed_clients a second time, with another label, for the summary."""
    shared = set(ROW_KEYS) & set(SUMMARY_KEYS)
    assert shared == {field.key for field in TOTAL_FIELDS}
    assert all(FIELDS[field.key] is field for field in ROUND_FIELDS)


def test_bytes_are_written_by_the_strategies_and_named_here() -> None:
    """Break it: spell 'cut_uplink_bytes' in results/table.py."""
    users = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if any(key in path.read_text(encoding="utf-8") for key in BYTE_KEYS)
    }
    assert users == {"fields/table.py"}


def test_bytes_by_purpose() -> None:
    assert (
        *("cut_uplink_bytes", "cut_downlink_bytes"),
        *("evaluate_uplink_bytes", "evaluate_downlink_bytes"),
        *("sync_uplink_bytes", "sync_downlink_bytes"),
        *("kept_uplink_bytes", "resent_bytes"),
    ) == BYTE_KEYS
    purposes: tuple[Purpose, ...] = ("cut", "evaluate", "sync")
    assert tuple(f.key for p in purposes for f in traffic_fields(p)) == BYTE_KEYS[:6]
    traffic = [field.key for field in fields_shown_in("traffic")]
    assert traffic == [key for key in BYTE_KEYS if key.startswith(("cut", "sync"))]


def test_places_show_fields_in_the_order_of_their_table() -> None:
    assert [field.label for field in fields_shown_in("rounds")][:3] == [
        *("round", "train loss", "test loss")
    ]
    assert [field.key for field in fields_shown_in("scores")] == [
        *("final_accuracy", "final_balanced_accuracy", "best_accuracy")
    ]
