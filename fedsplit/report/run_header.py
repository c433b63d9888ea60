"""The header of the report of a single run."""

from __future__ import annotations

from fedsplit.fields import FIELDS, fields_shown_in
from fedsplit.report import commands
from fedsplit.report.facts import NOT_KNOWN, facts_of, keys_in_words
from fedsplit.report.gather import RunRecord
from fedsplit.report.measures import TRAINING_LABEL, training_bytes
from fedsplit.report.page import Figure, Header, Headline, Notice
from fedsplit.results.best import is_over
from fedsplit.results.run_directory import RunDirectory
from fedsplit.results.summary import what_ran
from fedsplit.results.text import counted, duration, fixed, shown, with_unit


def run_header(record: RunRecord) -> Header:
    """Return what the run was, its headline, and its facts."""
    summary = record.summary
    done, asked = summary["finished_rounds"], summary["num_rounds"]
    rounds = counted(done, "round") if done == asked else f"{done} of {asked} rounds"
    lead = what_ran(summary, rounds=rounds) + "."
    if summary["stopped_early"]:
        lead += f" It ended early, because {_why_early(record)}."
    images = ", ".join(
        f"{summary[f'num_{split}_examples']:,} {word}"
        for split, word in (
            ("train", "to train"),
            ("validation", "to validate"),
            ("test", "to test"),
        )
    )
    facts = {
        "Keys that differ from their defaults": keys_in_words(record.config.changed()),
        "Images": images,
        "Failed clients": str(summary["failed_clients"]),
        **facts_of([record]),
        "SHA-256 of the final weights": summary.get("final_weights_sha256") or NOT_KNOWN,
        "Wall time": duration(summary["wall_seconds"]),
        "Run directory": str(record.directory),
    }
    return Header(
        lead,
        commands.again(record),
        facts,
        [Headline("", _figures(record))],
        [] if record.finished else [_unfinished(record)],
    )


def _why_early(record: RunRecord) -> str:
    """Say what has ended a run before its last round."""
    if is_over(record.rounds, record.config.monitor, record.config.patience):
        return "its score had not improved for as long as patience says"
    return "a callback ended it (StopRun); log.txt says why"


def _unfinished(record: RunRecord) -> Notice:
    summary = record.summary
    done, asked = summary["finished_rounds"], summary["num_rounds"]
    text = f"This run has not finished: {done} of {counted(asked, 'round')}"
    owner = RunDirectory(record.directory).owner()
    if owner is not None:
        return Notice(f"{text} so far. Process {owner} is making it.")
    if record.config.checkpoint_every == 0:
        return Notice(f"{text} are done. It wrote no checkpoints, so it cannot be continued.")
    return Notice(f"{text} are done. To continue it:", command=commands.resume(record))


def _figures(record: RunRecord) -> list[Figure]:
    summary = record.summary
    notes = []
    if summary["best_round"] is not None:
        best = fixed(summary["best_accuracy"], 4)
        notes.append(f"best: {best} in round {summary['best_round']}")
    if summary["initial_accuracy"] is not None:
        notes.append(f"before training: {fixed(summary['initial_accuracy'], 4)}")
    final = FIELDS["final_accuracy"]
    name = final.label if record.finished else "test accuracy so far"
    traffic = [field for field in fields_shown_in("traffic") if summary[field.key]]
    sent = ", ".join(f"{field.label} {shown(field, summary[field.key])}" for field in traffic)
    return [
        Figure(shown(final, summary[final.key]), name, "; ".join(notes)),
        Figure(with_unit(training_bytes(record), "B"), TRAINING_LABEL, sent),
        _client(record, "client_memory_bytes"),
        _client(record, "client_flops_per_sample"),
    ]


def _client(record: RunRecord, key: str) -> Figure:
    """Return a cost of a client, and that of the server."""
    field, other = FIELDS[key], FIELDS[key.replace("client", "server")]
    server = record.summary[other.key]
    note = f"{other.label}: {shown(other, server)}" if server else "the server trains nothing"
    return Figure(shown(field, record.summary[key]), field.label, note)
