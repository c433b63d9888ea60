"""Tables of test accuracy: after the last and the best round, by round, of each class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from fedsplit.fields import fields_shown_in
from fedsplit.report.gather import Gathered, RunRecord
from fedsplit.report.measures import Estimate, accuracy_by_round, estimate
from fedsplit.report.tables import Cell, Show, Table, cell
from fedsplit.results.text import fixed

BALANCED = "final_balanced_accuracy"
accuracy: Show = partial(fixed, digits=3)
_ROUNDS_UP_TO, _CLASSES_UP_TO = 12, 30


def accuracy_table(gathered: Gathered) -> Table:
    """Return final and best test accuracy, with the settings side by side."""
    seeds = len(gathered.comparison.seeds)
    columns = [
        field
        for field in fields_shown_in("scores")
        if field.key != BALANCED or _differs(gathered, BALANCED, "final_accuracy")
    ]
    header = ["variant"]
    header += [f"{s} {field.short_label}".strip() for s in gathered.settings for field in columns]
    rows = [
        [
            Cell(label),
            *(
                cell(
                    estimate(gathered.of(setting, label), field.key),
                    accuracy,
                    zero=True,
                    planned=seeds,
                )
                for setting in gathered.settings
                for field in columns
            ),
        ]
        for label in gathered.comparison.variants
    ]
    return Table("Test accuracy after the last round, and after the best one", header, rows)


def _differs(gathered: Gathered, key: str, other: str) -> bool:
    """Whether a score adds anything to another one: on balanced test images it does not."""
    summaries = [record.summary for record in gathered.finished.values()]
    known = [s for s in summaries if None not in (s.get(key), s.get(other))]
    return any(not math.isclose(s[key], s[other], abs_tol=1e-9) for s in known)


def by_round_tables(gathered: Gathered) -> Iterator[Table]:
    """Yield a table of the test accuracy by round for each setting."""
    seeds = len(gathered.comparison.seeds)
    for setting in gathered.settings:
        found = {
            label: accuracy_by_round(gathered.of(setting, label))
            for label in gathered.comparison.variants
        }
        numbers = _some(sorted({number for scores in found.values() for number in scores}))
        if numbers:
            yield Table(
                _named("Test accuracy by round; 0 is before training", setting),
                ["variant", *map(str, numbers)],
                [
                    [
                        Cell(label),
                        *(cell(scores.get(n), accuracy, zero=True, planned=seeds) for n in numbers),
                    ]
                    for label, scores in found.items()
                ],
            )


def class_tables(gathered: Gathered) -> Iterator[Table]:
    """Yield a table of the test accuracy of each class for each setting, up to 30 classes."""
    for setting in gathered.settings:
        of_label = {label: gathered.of(setting, label) for label in gathered.comparison.variants}
        names = next(
            (r.class_names for found in of_label.values() for r in found if r.class_names), []
        )
        if not 0 < len(names) <= _CLASSES_UP_TO:
            continue
        rows = [
            [Cell(label), *(_of_class(found, number) for number in range(len(names)))]
            for label, found in of_label.items()
        ]
        if any(each.exact for row in rows for each in row):
            caption = _named("Test accuracy of each class after the last round", setting)
            yield Table(caption, ["variant", *names], rows)


def _of_class(records: Sequence[RunRecord], number: int) -> Cell:
    scores = [record.summary.get("class_accuracy") for record in records]
    values = [of[number] for of in scores if of is not None and number < len(of)]
    known = tuple(value for value in values if value is not None)
    return cell(Estimate(known) if known else None, partial(fixed, digits=2))


def _named(caption: str, setting: str) -> str:
    return f"{caption}: {setting}" if setting else caption


def _some(numbers: Sequence[int]) -> list[int]:
    """Return at most 12 of the rounds: the first two, the last, and evenly spaced ones."""
    if len(numbers) <= _ROUNDS_UP_TO:
        return list(numbers)
    step = (len(numbers) - 1) / (_ROUNDS_UP_TO - 2)
    places = {round(place * step) for place in range(_ROUNDS_UP_TO - 1)}
    return [numbers[place] for place in sorted({0, 1, *places})]
