"""The pictures of a comparison's report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedsplit.fields import FIELDS, fields_shown_in
from fedsplit.report.bars import EVALUATION, draw_pairs, draw_shards, draw_stacks
from fedsplit.report.curves import draw_curves
from fedsplit.report.gather import Gathered, RunRecord
from fedsplit.report.measures import (
    CLIENT_FLOPS_LABEL,
    TRAINING_LABEL,
    Row,
    bytes_so_far,
    client_flops_so_far,
    curve,
    estimate,
    evaluation_bytes,
    rounds_so_far,
)
from fedsplit.report.picture import Picture
from fedsplit.results.plots import TRAFFIC_TITLE

Growth = Callable[[Row, RunRecord], float]


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of a picture of accuracy.

    Attributes
    ----------
    name : str
        The beginning of the ids in the pictures.
    along : str
        The label of the axis.
    unit : str | None
        The unit of the axis, or None for rounds.
    growth : Growth
        Returns what one round adds.
    """

    name: str
    along: str
    unit: str | None
    growth: Growth


BY_ROUND = Axis("round", "round", None, rounds_so_far)
BY_BYTES = Axis("bytes", TRAINING_LABEL, "B", bytes_so_far)
BY_CLIENT_FLOPS = Axis("flops", CLIENT_FLOPS_LABEL, "FLOP", client_flops_so_far)


def accuracy(gathered: Gathered, axis: Axis) -> Iterator[Picture]:
    """Yield a picture of the accuracy of all variants, for each setting."""
    for number, setting in enumerate(gathered.settings):
        found = [
            curve(gathered.of(setting, label), label, index, axis.growth)
            for index, label in enumerate(gathered.comparison.variants)
        ]
        curves = [line for line in found if line is not None]
        if curves:
            ends = ", ".join(f"{line.label} {line.ys[-1]:.3f}" for line in curves)
            caption = f"Test accuracy by {axis.along}{_in(setting)}{_cut_off(gathered, setting)}"
            yield draw_curves(
                curves,
                name=f"{axis.name}{number}",
                caption=caption,
                alt=f"{caption}. At the end: {ends}.",
                along=axis.along,
                unit=axis.unit,
            )


def _cut_off(gathered: Gathered, setting: str) -> str:
    """Say which lines do not show all rounds, because some seeds have ended before others."""
    said = []
    for label in gathered.comparison.variants:
        numbers = {len(record.rounds) for record in gathered.of(setting, label)}
        if len(numbers) > 1:
            said.append(f"{label} (round {min(numbers)} of {max(numbers)})")
    if not said:
        return ""
    return f". Lines end with the last round that all seeds have, early of: {', '.join(said)}"


def by_direction(gathered: Gathered) -> Iterator[Picture]:
    """Yield a picture of bytes by purpose and direction, for each setting."""
    for number, setting in enumerate(gathered.settings):
        stacks = {
            label: traffic(gathered.of(setting, label))
            for label in gathered.comparison.variants
            if gathered.of(setting, label)
        }
        if stacks:
            caption = f"{TRAFFIC_TITLE}{_in(setting)}"
            yield Picture(caption, draw_stacks(stacks, name=f"traffic{number}", alt=caption))


def traffic(records: list[RunRecord]) -> dict[str, float]:
    """Return the mean bytes of each part of a bar (see `bars.TRAFFIC`)."""
    found = {
        field.short_label: estimate(records, field.key) for field in fields_shown_in("traffic")
    }
    found[EVALUATION] = estimate(records, evaluation_bytes)
    return {name: size.mean if size else 0.0 for name, size in found.items()}


def sides(gathered: Gathered) -> Iterator[Picture]:
    """Yield pictures of what client and server hold and compute: once if all settings agree."""
    for key in ("parameters", "flops_per_sample", "memory_bytes"):
        client, server = FIELDS[f"client_{key}"], FIELDS[f"server_{key}"]
        caption = f"{client.label[0].upper()}{client.label[1:]} and {server.label}"
        unit = FIELDS[f"client_{key}"].unit
        of_settings = {
            setting: {
                label: (
                    _mean(gathered.of(setting, label), f"client_{key}"),
                    _mean(gathered.of(setting, label), f"server_{key}"),
                )
                for label in gathered.comparison.variants
                if gathered.of(setting, label)
            }
            for setting in gathered.settings
        }
        found = [pairs for pairs in of_settings.values() if pairs]
        together = {
            label: next(pairs[label] for pairs in found if label in pairs)
            for label in gathered.comparison.variants
            if any(label in pairs for pairs in found)
        }
        agree = all(pair == together[label] for pairs in found for label, pair in pairs.items())
        if agree and len(found) == len(gathered.settings):  # of one without runs nothing is known
            of_settings = {"": together}
        for number, (setting, pairs) in enumerate(of_settings.items()):
            if any(size is not None for pair in pairs.values() for size in pair):
                said = f"{caption}{_in(setting)}"
                yield Picture(said, draw_pairs(pairs, name=f"{key}{number}", alt=said, unit=unit))


def shards(gathered: Gathered) -> Iterator[Picture]:
    """Yield a picture of the shards with the first seed, for each setting."""
    for number, setting in enumerate(gathered.settings):
        record = next(
            (
                record
                for run, record in gathered.finished.items()
                if run.setting == setting and record.class_counts
            ),
            None,
        )
        if record is not None:
            caption = f"Training images of each client and class{_in(setting)}, seed "
            caption += str(record.summary["seed"])
            yield Picture(caption, shard_picture(record, name=f"shards{number}", alt=caption))


def shard_picture(record: RunRecord, *, name: str, alt: str) -> str:
    """Return the picture of the shards of one run."""
    sizes = [sum(row) for row in record.class_counts]
    alt += f". Clients hold {min(sizes)} to {max(sizes)} images."
    return draw_shards(record.class_counts, record.class_names, name=name, alt=alt)


def _mean(records: list[RunRecord], key: str) -> float | None:
    found = estimate(records, key)
    return found.mean if found else None


def _in(setting: str) -> str:
    return f", {setting}" if setting else ""
