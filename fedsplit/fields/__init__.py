"""The fields of a run's results, in one table, and the metrics that strategies and rules declare.

`field.py` says what a field is, `table.py` lists the built-in ones, `metric.py` is for a user's
own, and `aggregation.py` adds values up over clients and rounds.
"""

from fedsplit.fields.aggregation import as_number, combine, over_rounds
from fedsplit.fields.field import BuiltIn, Field, Place
from fedsplit.fields.metric import (
    DECLARED_KEY,
    METRICS_GROUP,
    Metric,
    checked_values,
    declare,
    declared_in,
)
from fedsplit.fields.table import (
    BYTE_KEYS,
    ENVIRONMENT_KEYS,
    FIELDS,
    ROUND_FIELDS,
    ROW_KEYS,
    START_KEYS,
    SUMMARY_FIELDS,
    SUMMARY_KEYS,
    TOTAL_FIELDS,
    Purpose,
    fields_shown_in,
    traffic_fields,
)

__all__ = [
    "BYTE_KEYS",
    "DECLARED_KEY",
    "ENVIRONMENT_KEYS",
    "FIELDS",
    "METRICS_GROUP",
    "ROUND_FIELDS",
    "ROW_KEYS",
    "START_KEYS",
    "SUMMARY_FIELDS",
    "SUMMARY_KEYS",
    "TOTAL_FIELDS",
    "BuiltIn",
    "Field",
    "Metric",
    "Place",
    "Purpose",
    "as_number",
    "checked_values",
    "combine",
    "declare",
    "declared_in",
    "fields_shown_in",
    "over_rounds",
    "traffic_fields",
]
