"""results.csv: one row for each finished run, with the values of its summary."""

from __future__ import annotations

import csv
import io

from fedsplit.report.gather import Gathered, summary_keys


def results_csv(gathered: Gathered) -> str:
    """Return ``results.csv``: setting, label, seed, then the summary's keys.

    Parameters
    ----------
    gathered : Gathered
        The comparison. A key that a summary lacks is an empty cell.
    """
    keys = [key for key in summary_keys(list(gathered.finished.values())) if key != "seed"]
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["setting", "label", "seed", *keys])
    for run, record in gathered.finished.items():
        values = [record.summary.get(key) for key in keys]
        table.writerow([run.setting, run.label, run.seed, *values])
    return file.getvalue()
