"""The headline of a comparison, and its variants against `full`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from fedsplit.fields import FIELDS
from fedsplit.report.gather import Gathered, RunRecord
from fedsplit.report.measures import TRAINING_LABEL, Estimate, estimate, training_bytes
from fedsplit.report.page import Figure, Headline
from fedsplit.report.scores import accuracy
from fedsplit.report.tables import (
    Cell,
    Show,
    Source,
    Table,
    cell,
    exactly,
    without_empty_columns,
)
from fedsplit.results.text import NOTHING, shown, with_unit

REFERENCE, POOLED = "full", "centralized"
_FINAL = "final_accuracy"
_MANY = 3


def _costs() -> list[tuple[str, Source, Show]]:
    """Return what is compared beside accuracy: name, source, and how it is written."""
    costs: list[tuple[str, Source, Show]] = [
        (TRAINING_LABEL, training_bytes, partial(with_unit, unit="B"))
    ]
    for key in ("client_memory_bytes", "client_flops_per_sample"):
        field = FIELDS[key]
        costs.append((field.label, key, partial(shown, field)))
    return costs


def _reference_of(gathered: Gathered, setting: str) -> str | None:
    """Return the label of the variant that others are compared with: the first that is `full`."""
    return next(iter(_labels(gathered, setting, REFERENCE)), None)


def _labels(gathered: Gathered, setting: str, strategy: str) -> list[str]:
    """Return the variants that have this strategy in a setting, which may choose it, too."""
    comparison = gathered.comparison
    return [
        label
        for label in comparison.variants
        if comparison.keys_of(setting, label).get("strategy", "sflv1") == strategy
    ]


def headlines(gathered: Gathered) -> Iterator[Headline]:
    """Yield the most accurate variants of each setting, and what one costs against `full`."""
    seeds = len(gathered.comparison.seeds)
    for setting in gathered.settings:
        reference = _reference_of(gathered, setting)
        pooled = _labels(gathered, setting, POOLED)
        scores = {
            label: found
            for label in gathered.comparison.variants
            if label not in pooled
            and (found := estimate(gathered.of(setting, label), _FINAL)) is not None
        }
        if not scores:
            continue
        winners = _winners(scores)
        best = _shown_of(winners, reference)
        records = gathered.of(setting, best)
        of_reference = gathered.of(setting, reference) if reference not in (None, best) else []
        whose = f" of {best}" if len(winners) > 1 else ""
        figures = [
            Figure(
                cell(scores[best], accuracy, planned=seeds).text,
                f"{FIELDS[_FINAL].label}{whose}",
                _against(scores, winners, reference, seeds),
            )
        ]
        for name, source, show in _costs():
            if (found := estimate(records, source)) is not None:
                note = _cost_note(found, estimate(of_reference, source), reference, show)
                figures.append(Figure(show(found.mean), f"{name}{whose}", note))
        title = _title(winners, accuracy(scores[best].mean), pools=bool(pooled))
        yield Headline(f"{setting}: {title}" if setting else title, figures)


def _winners(scores: Mapping[str, Estimate]) -> list[str]:
    """Return the most accurate variant, and all that equal it: then none of them is the best."""
    most = max(found.mean for found in scores.values())
    return [label for label, found in scores.items() if math.isclose(found.mean, most)]


def _shown_of(winners: Sequence[str], reference: str | None) -> str:
    """Return whose costs are shown: `full` is what others are compared with."""
    return next((label for label in winners if label != reference), winners[0])


def _title(winners: Sequence[str], score: str, *, pools: bool) -> str:
    """Say which variant has won, or that several have not been told apart."""
    if len(winners) == 1:
        title = f"{winners[0]} is the most accurate variant"
        return f"{title} that leaves the images with the clients" if pools else title
    others = "no variant that leaves the images with the clients" if pools else "no variant"
    return f"{_listed(winners)} are equal at {score}: {others} is more accurate"


def _listed(labels: Sequence[str]) -> str:
    """Return up to three labels in words, and the number of the others."""
    if len(labels) > _MANY:
        return f"{', '.join(labels[:_MANY])} and {len(labels) - _MANY} more"
    return " and ".join(filter(None, (", ".join(labels[:-1]), labels[-1])))


def _against(
    scores: Mapping[str, Estimate], winners: Sequence[str], reference: str | None, seeds: int
) -> str:
    """Say what `full` reaches, and which variants cannot be told apart from the best one."""
    said = []
    if reference is not None and reference in scores and reference not in winners:
        said.append(f"{reference}: {cell(scores[reference], accuracy, planned=seeds).text}")
    best = scores[winners[0]]
    close = [
        label
        for label, found in scores.items()
        if label not in winners
        and best.mean - found.mean < max(best.deviation or 0.0, found.deviation or 0.0)
    ]
    if close:
        said.append(f"less than one deviation behind: {_listed(close)}")
    return "; ".join(said)


def _cost_note(found: Estimate, of: Estimate | None, reference: str | None, show: Show) -> str:
    if of is None:
        return ""
    if show(found.mean) == show(of.mean):
        return f"{reference}: {show(of.mean)}, the same"
    return f"{reference}: {show(of.mean)}{_times(found.mean, of.mean)}"


def _times(value: float, of: float) -> str:
    if not value or not of:
        return ""
    ratio = of / value
    if ratio > 1.05:
        return f", {_factor(ratio)} times as much"
    return f"; here {_factor(1 / ratio)} times as much" if ratio < 0.95 else ", about the same"


def _factor(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}"


def _percent(share: float) -> str:
    return f"{share:,.0f} %" if share >= 999.5 else f"{share:.3g} %"


def tables(gathered: Gathered) -> Iterator[Table]:
    """Yield a table of all variants against `full` for each setting: none without `full`."""
    seeds = len(gathered.comparison.seeds)
    for setting in gathered.settings:
        reference = _reference_of(gathered, setting)
        base = [] if reference is None else gathered.of(setting, reference)
        if not base:
            continue
        header = ["variant", FIELDS[_FINAL].label, "difference"]
        for name, _, _ in _costs():
            header += [name, f"of {reference}"]
        rows = [
            _row(label, gathered.of(setting, label), base, seeds)
            for label in gathered.comparison.variants
        ]
        caption = f"Accuracy and costs against {reference}"
        named = f"{caption}: {setting}" if setting else caption
        yield without_empty_columns(Table(named, header, rows))


def _row(
    label: str, records: Sequence[RunRecord], base: Sequence[RunRecord], seeds: int
) -> list[Cell]:
    row = [Cell(label), cell(estimate(records, _FINAL), accuracy, zero=True, planned=seeds)]
    row.append(Cell(NOTHING) if records == base else _difference(records, base, seeds))
    for _, source, show in _costs():
        found, of = estimate(records, source), estimate(base, source)
        row.append(cell(found, show))
        share = NOTHING
        if found is not None and of is not None and of.mean:
            share = _percent(100 * found.mean / of.mean)
        row.append(Cell(share))
    return row


def _difference(records: Sequence[RunRecord], base: Sequence[RunRecord], seeds: int) -> Cell:
    """Return the difference in accuracy, seed by seed: seeds share the division of the images."""
    of_seed = {record.config.seed: record.summary[_FINAL] for record in base}
    found = tuple(
        record.summary[_FINAL] - of_seed[record.config.seed]
        for record in records
        if None not in (record.summary[_FINAL], of_seed.get(record.config.seed))
    )
    if not found:
        return Cell(NOTHING)
    difference = Estimate(found)
    text = f"{difference.mean:+.3f}"
    text += "" if difference.deviation is None else f" ± {accuracy(difference.deviation)}"
    text += f" (n = {len(found)})" if len(found) < seeds else ""
    return Cell(text, "; ".join(exactly(value) for value in found))
