"""The header of the report of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from fedsplit.fields import FIELDS
from fedsplit.locks import FileLock
from fedsplit.report.against import headlines
from fedsplit.report.facts import facts_of, keys_in_words
from fedsplit.report.gather import Gathered, RunRecord, uneven_images
from fedsplit.report.page import Header, Notice
from fedsplit.results.text import counted, duration


def header_of(gathered: Gathered) -> Header:
    """Return what was compared and how, its headline, and its facts."""
    comparison, records = gathered.comparison, list(gathered.finished.values())
    lead = counted(len(comparison.variants), "variant")
    if len(gathered.settings) > 1:
        lead += f" in {counted(len(gathered.settings), 'setting')} ({', '.join(gathered.settings)})"
    lead += f", {counted(len(comparison.seeds), 'seed')}: {counted(len(comparison.runs), 'run')}"
    lead += f", {len(gathered.missing)} of them not made yet." if gathered.missing else "."
    return Header(
        lead,
        comparison.command,
        _facts(gathered, records),
        list(headlines(gathered)),
        list(_notices(gathered)),
        _how_to_read(gathered, records),
    )


def _facts(gathered: Gathered, records: Sequence[RunRecord]) -> dict[str, str]:
    comparison = gathered.comparison
    facts = {}
    for key in ("model", "dataset", "num_clients", "num_rounds"):
        if found := list(dict.fromkeys(str(record.summary[key]) for record in records)):
            facts[FIELDS[key].label.capitalize()] = ", ".join(found)
    facts["Seeds"] = ", ".join(map(str, comparison.seeds))
    shared = keys_in_words(comparison.shared_keys())
    facts["Keys of all runs that differ from their defaults"] = shared
    if records:
        facts |= facts_of(records)
    facts["Wall time"] = (
        f"{duration(comparison.wall_seconds)} in all, {counted(comparison.jobs, 'run')} at a time"
    )
    return facts


def _notices(gathered: Gathered) -> list[Notice]:
    found = []
    if uneven := uneven_images(gathered):
        text = (
            "The data set has changed between the runs of these variants, so do not compare them:"
        )
        found.append(Notice(text, uneven))
    if gathered.failed:
        text = "These runs failed and are missing below:"
        found.append(Notice(text, gathered.failed, gathered.comparison.command))
    if missing := gathered.missing:
        text = f"This comparison has not finished: {len(missing)} of "
        text += f"{counted(len(gathered.comparison.runs), 'run')} are missing below."
        owner = FileLock.owner(gathered.directory / ".lock")
        if owner is not None:
            found.append(Notice(f"{text} Process {owner} is making them.", missing))
        else:
            text += " To continue it:"
            found.append(Notice(text, missing, gathered.comparison.command))
    return found


def _how_to_read(gathered: Gathered, records: Sequence[RunRecord]) -> str:
    n = len(gathered.comparison.seeds)
    how = (
        f"Numbers are means over the seeds, ± the sample standard deviation (n = {n}; divided by "
        "n - 1), which is the band around a line."
        if n > 1
        else "There is one seed: no deviation can be shown, and small differences mean nothing."
    )
    if len(records) < len(gathered.comparison.runs):
        how += " Where runs are missing, the numbers are those of the runs that have finished."
    return how + " The exact value of each seed is in the tooltip of a cell and in results.csv."
