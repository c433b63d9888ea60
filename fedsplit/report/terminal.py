"""What a comparison has found, as text for the end of its command."""

from __future__ import annotations

from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from fedsplit.fields import FIELDS
from fedsplit.report.against import headlines
from fedsplit.report.gather import Gathered, uneven_images
from fedsplit.report.measures import (
    CLIENT_FLOPS_LABEL,
    TRAINING_LABEL,
    client_flops,
    estimate,
    training_bytes,
)
from fedsplit.report.scores import accuracy
from fedsplit.report.tables import Column, bytes_, cell, columns_of, flops
from fedsplit.results.table import WIDTH_COLUMNS
from fedsplit.results.text import NOTHING

_FINAL = FIELDS["final_accuracy"]
_COSTS: tuple[Column, ...] = (
    (TRAINING_LABEL, training_bytes, bytes_),
    (CLIENT_FLOPS_LABEL, client_flops, flops),
    *columns_of([FIELDS["wall_seconds"]]),
)


def terminal_table(gathered: Gathered, *, width: int = WIDTH_COLUMNS) -> str:
    """Return a table of accuracy and cost for each setting, and the most accurate variants.

    Lines have at most `width` columns.

    Parameters
    ----------
    gathered : Gathered
        The comparison. Variants without a finished run have dashes.
    width : int
        In columns. Long names are folded.
    """
    n = len(gathered.comparison.seeds)
    of_seeds = f"means over {n} seeds (± standard deviation)" if n > 1 else "one seed"
    file = StringIO()
    console = Console(file=file, width=width, color_system=None, markup=False, emoji=False)
    for setting in gathered.settings:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("variant", overflow="fold", vertical="bottom")
        for name in (_FINAL.label, *(name for name, _, _ in _COSTS)):
            table.add_column(name, justify="right", vertical="bottom")
        for label in gathered.comparison.variants:
            records = gathered.of(setting, label)
            costs = [(estimate(records, of), show) for _, of, show in _COSTS]
            table.add_row(
                label,
                cell(estimate(records, _FINAL.key), accuracy, zero=True, planned=n).text,
                *(NOTHING if found is None else show(found.mean) for found, show in costs),
            )
        console.print(f"{setting or gathered.comparison.name}, {of_seeds}")
        console.print(table)
    for headline in headlines(gathered):
        note = headline.figures[0].note
        console.print(f"{headline.title}{f' ({note})' if note else ''}.")
    for label, images in uneven_images(gathered).items():
        console.print(f"The data set has changed between the runs of {label}: {images}.")
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())
