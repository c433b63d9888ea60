from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedsplit.config import Config, Scalar
from fedsplit.errors import ConfigError, RunError
from fedsplit.fields import DECLARED_KEY, ENVIRONMENT_KEYS, Metric
from fedsplit.report.comparison import Comparison
from fedsplit.report.gather import read_run
from fedsplit.report.picture import Picture
from fedsplit.report.write import write_report
from fedsplit.results.run_directory import RunDirectory
from tests.report.examples import VARIANTS, write_comparison, write_run
from tests.results.examples import METRICS, PER_ROUND


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "example").mkdir()
    return write_comparison(tmp_path / "example", variants=VARIANTS)


def test_the_csv_has_a_row_for_each_run_with_every_key_of_its_summary(directory: Path) -> None:
    written = write_report(directory)
    assert [path.name for path in written] == ["results.csv", "report.md", "report.html"]
    with written[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert list(rows[0])[:4] == ["setting", "label", "seed", "strategy"]
    for row in rows:
        name = f"{row['setting']}-{row['label']}-seed{row['seed']}"
        kept = json.loads((directory / "runs" / name / "summary.json").read_text())
        assert set(kept) <= set(row)
        assert {key: row[key] for key in kept} == {
            key: "" if value is None else str(value) for key, value in kept.items()
        }


def test_markdown_has_means_and_sample_deviations(directory: Path) -> None:
    write_report(directory)
    text = (directory / "report.md").read_text(encoding="utf-8")
    # Accuracies 0.51 and 0.53: mean 0.52, sample deviation 0.02 / sqrt(2).
    assert "| full | 0.520 ± 0.014 | 0.520 ± 0.014 | 0.520 ± 0.014 | 0.520 ± 0.014 |" in text
    assert "| split \\<b\\>\\| |" in text
    # Cut up: 3 rounds of 1,000,001 and of 1,000,003; deviation 3 * sqrt(2).
    assert "| split \\<b\\>\\| | 3.00 MB ± 4 B | 3.00 MB | 3.00 MB | 3.00 MB | 12.0 MB" in text
    assert "n = 2; divided by n - 1" in text
    assert "fedsplit compare example.toml" in text
    assert "| variant | strategy |" in text
    assert "| dirichlet(0.1) | dirichlet | 0.1 |" in text
    assert "Failed" not in text


@pytest.mark.parametrize("balanced", [0.5, 0.25])
def test_balanced_accuracy_is_shown_where_it_differs(directory: Path, balanced: float) -> None:
    for path in directory.glob("runs/*/summary.json"):
        scores = {"final_accuracy": 0.5, "final_balanced_accuracy": balanced}
        path.write_text(json.dumps({**json.loads(path.read_text()), **scores}))
    write_report(directory)
    text = (directory / "report.md").read_text(encoding="utf-8")
    assert ("| full | 0.500 ± 0.000 | 0.250 ± 0.000 |" in text) == (balanced != 0.5)
    assert ("balanced" in text) == (balanced != 0.5)


def test_with_one_seed_there_is_no_deviation(tmp_path: Path) -> None:
    write_report(write_comparison(tmp_path, variants=VARIANTS, settings=(), seeds=[5]))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "±" not in text
    assert "There is one seed: no deviation can be shown" in text
    assert "| full | 0.550 | 0.550 |" in text


def test_failed_runs_are_named_and_left_out(tmp_path: Path) -> None:
    write_report(write_comparison(tmp_path, variants=VARIANTS, failed=["iid-full-seed1"]))
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "runs/iid-full-seed1" in text
        assert "Every participant of round 1 failed." in text
        assert "Where runs are missing" in text
    assert (
        "| full | 0.530 (n = 1) | 0.530 (n = 1) | 0.520 ± 0.014"
        in (tmp_path / "report.md").read_text()
    )


def test_numbers_of_one_setting_are_not_those_of_one_without_runs(tmp_path: Path) -> None:
    """Break it: show them without the name of their setting, as what all settings agree on."""
    variants = {"full": {"strategy": "full"}}
    captions = ("Bytes of all clients in the whole run", "What client and server hold and compute")
    for folder, failed in (("all", []), ("one", ["dirichlet(0.1)-full-seed1"])):
        made = write_comparison(tmp_path / folder, variants=variants, seeds=[1], failed=failed)
        write_report(made)
        text = (made / "report.md").read_text(encoding="utf-8")
        page = (made / "report.html").read_text(encoding="utf-8")
        for caption in captions:
            assert (f"\n{caption}: iid:" in text) == bool(failed)
            assert (f"\n{caption}:\n" in text) == (not failed)
            assert f"{caption}: dirichlet" not in text
        assert ("Client memory and server memory, iid" in page) == bool(failed)


def test_a_comparison_without_results_has_a_report(tmp_path: Path) -> None:
    names = [f"{label}-seed1" for label in VARIANTS]
    write_comparison(tmp_path, variants=VARIANTS, settings=(), seeds=[1], failed=names)
    write_report(tmp_path)
    assert "| full | - | - |" in (tmp_path / "report.md").read_text()


def test_a_run_that_is_not_made_yet_is_no_failure(directory: Path) -> None:
    comparison = Comparison.read(directory)
    comparison.runs.append(type(comparison.runs[0])("iid", "full", 9, "runs/never"))
    comparison.write(directory)
    write_report(directory)
    text = (directory / "report.md").read_text()
    assert "13 runs, 1 of them not made yet" in text
    assert "This comparison has not finished: 1 of 13 runs are missing below." in text
    assert "- `runs/never`: not begun" in text
    assert "failed" not in text.partition("## Facts")[0].replace("failed clients", "")


def test_values_that_no_summary_has_are_not_shown(directory: Path) -> None:
    for path in directory.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        timed = {"simulated_communication_seconds": 90.0, "communication_seconds": None}
        path.write_text(json.dumps(summary | timed))
    _, markdown, page = write_report(directory)
    assert "| client memory | server memory |" in markdown.read_text()
    assert "Client memory and server memory" in page.read_text()
    assert "| communication, simulated |" in markdown.read_text()
    assert "| 1:30 min |" in markdown.read_text()
    assert "communication, measured" not in markdown.read_text()

    # Summaries as an older version wrote them.
    for path in directory.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        old = {key: summary[key] for key in summary if not re.search("memory|commun", key)}
        path.write_text(json.dumps(old))
    for path in write_report(directory)[1:]:
        assert not re.search("memory|communication", path.read_text(), re.IGNORECASE)


def test_the_page_has_exact_bytes(directory: Path) -> None:
    write_report(directory)
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert 'title="3,000,003; 3,000,009"' in page
    assert "split <b>" not in page
    assert "split &lt;b&gt;|" in page


def test_the_report_of_a_run(tmp_path: Path) -> None:
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one", "seed": 4})
    (write_run(config).path / "rounds.png").write_bytes(b"")
    written = write_report(tmp_path / "one")
    assert [path.name for path in written] == ["report.md", "report.html"]
    text, page = (path.read_text(encoding="utf-8") for path in written)
    assert "| 3 | 0.6667 | 0.8333 | 0.5400 | 1.00 MB | 1.00 MB |" in text
    assert "![Rounds](rounds.png)" in text
    assert "shards.png" not in text  # the file does not exist
    assert page.count("<svg ") == 4
    assert "Accuracy by round" in page
    assert "Metrics" not in text + page


def test_a_score_of_0_in_every_round_is_shown(tmp_path: Path) -> None:
    """Break it: leave out every column without a value above 0."""
    metric = Metric("cheats", "times cheated")
    run = write_run(Config.load({"output-dir": str(tmp_path)}), metrics=[metric])
    rows = [json.loads(line) for line in run.rounds_path.read_text().splitlines()]
    changed = [{**row, "cheats": 0, "test_accuracy": 0.0, "resent_bytes": 0} for row in rows]
    run.rounds_path.write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    write_report(run.path)
    text = (run.path / "report.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| round |"))
    assert "| test accuracy | times cheated |" in header
    assert "sent again" not in header


def test_the_report_of_a_run_has_its_declared_metrics(tmp_path: Path) -> None:
    """Break it: leave them out of one of the tables, or escape no label."""
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one", "seed": 4})
    write_run(config, metrics=METRICS)
    text, page = (path.read_text(encoding="utf-8") for path in write_report(tmp_path / "one"))
    hostile = r"\<b\>\$a\_\$\|:warning: \[red\]"
    assert (
        f"| test accuracy | norm of the smashed data | {hostile} | seen in rounds only | cut"
        in text
    )
    assert "| 0.5400 | 3004 | 3.00 kB | 3004 | 1.00 MB |" in text
    assert "| norm of the smashed data | 3004 |" in text
    assert f"| {hostile} | 6.01 kB |" in text
    assert "\n| seen in rounds only | " not in text
    assert "<b>" not in page
    assert page.count("&lt;b&gt;$a_$|:warning: [red]") == 2
    assert 'title="6,012">6.01 kB' in page


def test_the_report_of_a_comparison_has_a_table_of_declared_metrics(tmp_path: Path) -> None:
    """Break it: read the key of a variant that declares another metric by the same key."""
    other = Metric("smashed_norm", "largest norm", over_clients="max", over_rounds="mean")
    metrics = {"full": METRICS, "split <b>|": [other]}
    write_comparison(tmp_path, variants=VARIANTS, settings=(), metrics=metrics)
    csv_path, *paths = write_report(tmp_path)
    text, page = (path.read_text(encoding="utf-8") for path in paths)
    (table,) = re.findall(r"Declared metrics of one run:\n\n(.*?)\n\n", text, re.DOTALL)
    assert table.splitlines() == [
        "| variant | norm of the smashed data | \\<b\\>\\$a\\_\\$\\|:warning: \\[red\\] "
        "| largest norm |",
        "|---|---:|---:|---:|",
        "| centralized | - | - | - |",
        "| full | 3002 ± 1.414 | 6.01 kB ± 4 B | - |",
        "| split \\<b\\>\\| | - | - | 2002 ± 1.414 |",
    ]
    assert "<b>" not in page
    assert '<h3 id="metrics-tables">Metrics</h3>' in page
    with csv_path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["hostile"] for row in rows] == ["", "6003", "", "", "6009", ""]
    assert DECLARED_KEY not in rows[0]


def test_text_of_a_section_is_no_markup(tmp_path: Path) -> None:
    """Break it: write a section's text into Markdown as it is: it names variants."""
    variants = {"all <img> at *once*": {"strategy": "centralized"}}
    _, markdown, _ = write_report(write_comparison(tmp_path, variants=variants, settings=()))
    text = markdown.read_text(encoding="utf-8")
    assert r"all \<img\> at \*once\* trains where all images are" in text
    assert "<img>" not in text


@pytest.mark.parametrize("described", [3, [{"key": "norm"}], [{"key": "Norm", "label": "n"}]])
def test_a_summary_that_describes_no_metrics_is_refused(tmp_path: Path, described: object) -> None:
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one"})
    path = write_run(config).summary_path
    path.write_text(json.dumps(json.loads(path.read_text()) | {DECLARED_KEY: described}))
    with pytest.raises(ConfigError, match=r"one'.*"):
        write_report(tmp_path / "one")


HOSTILE_VALUES = ["<b>\x1b[31m\n| x |", -1, 10**400, [], {"a": 1}, True, None, 1e99, [[]]]


def _write_report_or_say(folder: Path) -> str:
    """Return why there is no report; check that one that is written shows no hostile text."""
    try:
        written = write_report(folder)
    except ConfigError as error:
        return str(error)
    text, page = (path.read_text(encoding="utf-8") for path in written[-2:])
    assert "\x1b" not in text
    assert "\n| x |" not in text
    of_code = [line for line in text.splitlines() if line.startswith("    ")]
    assert "<b>" not in page
    assert text.count("<b>") == "".join(of_code).count("<b>")
    return ""


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=lambda value: repr(value)[:9])
def test_values_that_no_run_writes_are_a_sentence_or_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    """Break it: check a key as another kind, or write a text with its line breaks."""
    monkeypatch.setattr("fedsplit.report.run_sections.draw_run", lambda *_: Picture("", ""))
    run = write_run(Config.load({"output-dir": str(tmp_path), "run-name": "one"}), metrics=METRICS)
    of_clients = {"clients": [0, 1], "examples": [4, 4], "loss": [1.0, None], "accuracy": [0, 1]}
    line = {"round": 1, "train": of_clients, "validation": of_clients}
    run.client_results_path.write_text(f"{json.dumps(line)}\n")
    summary = json.loads(run.summary_path.read_text())
    summary |= {"class_accuracy": [0.5] * 10, "confusion_matrix": [[1] * 10] * 10}
    run.summary_path.write_text(json.dumps(summary))
    assert not _write_report_or_say(run.path)
    for path in (run.summary_path, run.rounds_path, run.client_results_path):
        text = path.read_text()
        first, *others = [text] if path == run.summary_path else text.splitlines()
        taken: dict[str, object] = {}
        for key in json.loads(first):
            path.write_text("\n".join([json.dumps(json.loads(first) | {key: value}), *others, ""]))
            try:
                read_run(run.path)
            except ConfigError as error:
                assert "one' cannot be read as the directory of a run: " in str(error)  # noqa: PT017
            else:
                taken[key] = value
        assert len(taken) < len(json.loads(first))
        path.write_text("\n".join([json.dumps(json.loads(first) | taken), *others, ""]))
        _write_report_or_say(run.path)
        path.write_text(text)


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=lambda value: repr(value)[:9])
def test_a_comparison_that_no_fedsplit_writes_is_a_sentence_or_harmless(
    tmp_path: Path, value: object
) -> None:
    """Break it: take comparison.json for a comparison, whatever its values are."""
    directory = write_comparison(tmp_path, variants=VARIANTS, settings=(), seeds=[1])
    path = directory / "comparison.json"
    values = json.loads(path.read_text())
    runs = values["runs"]
    taken: dict[str, object] = {}
    changes: list[dict[str, Any]] = [
        *({"runs": [{**runs[0], key: value}, *runs[1:]]} for key in runs[0]),
        *({key: value} for key in values),
    ]
    for changed in changes:
        path.write_text(json.dumps(values | changed))
        try:
            Comparison.read(directory)
        except ConfigError as error:
            assert f"'{path}' cannot be read (" in str(error)  # noqa: PT017
        else:
            taken |= changed
    assert len(taken) < len(values)
    path.write_text(json.dumps(values | taken))
    _write_report_or_say(directory)


def test_a_defect_of_the_report_is_not_called_one_of_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: turn every ValueError of a report into a sentence about the run."""
    run = write_run(Config.load({"output-dir": str(tmp_path), "run-name": "one"}))

    def defect(*_: object, **__: object) -> str:
        raise ValueError("a defect")

    monkeypatch.setattr("fedsplit.report.write.to_markdown", defect)
    with pytest.raises(ValueError, match="a defect"):
        write_report(run.path)


@pytest.mark.parametrize("spoilt", ["[]", "5", "null", "[" * 10**5, "{}"])
@pytest.mark.parametrize("file", ["rounds.jsonl", "summary.json", "clients.jsonl"])
def test_files_that_hold_something_else_are_named(tmp_path: Path, file: str, spoilt: str) -> None:
    """Break it: take any JSON for a row or a summary."""
    write_run(Config.load({"output-dir": str(tmp_path), "run-name": "one"}))
    (tmp_path / "one" / file).write_text(f"{spoilt}\n")
    with pytest.raises(ConfigError, match=r"one' cannot be read as"):
        write_report(tmp_path / "one")


@pytest.mark.parametrize("file", ["config.toml", "start.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, file: str) -> None:
    kept = write_run(Config.load({"output-dir": str(tmp_path), "run-name": "one"}))
    kept.summary_path.unlink()
    (kept.path / file).unlink(missing_ok=True)
    os.mkfifo(kept.path / file)
    with pytest.raises(ConfigError, match="one' cannot be read as the directory of a run"):
        write_report(kept.path)


@pytest.mark.parametrize("name", [".", "nowhere", "file", "x" * 300])
def test_other_directories_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"Give a directory that 'fedsplit compare' or"):
        write_report(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("spoilt", ["comparison.json", "runs/iid-full-seed1/rounds.jsonl"])
def test_files_that_cannot_be_read(directory: Path, spoilt: str) -> None:
    (directory / spoilt).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_report(directory)


def test_a_report_that_cannot_be_written(directory: Path) -> None:
    (directory / "report.html").mkdir()
    with pytest.raises(RunError, match=r"Cannot write .*report.html.: Is a directory"):
        write_report(directory)


def test_a_report_loads_no_torch(directory: Path) -> None:
    script = (
        "import sys; from fedsplit.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'flwr', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "report", str(directory)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        *(str(directory / name) for name in ("results.csv", "report.md", "report.html")),
        "[]",
    ]


def test_metrics_of_rounds_only_make_no_table_of_a_comparison(tmp_path: Path) -> None:
    """Break it: make a column, always empty, for a metric that no summary has."""
    metrics = {label: [PER_ROUND] for label in VARIANTS}
    write_comparison(tmp_path, variants=VARIANTS, settings=(), metrics=metrics)
    assert "Metrics" not in write_report(tmp_path)[1].read_text(encoding="utf-8")


def test_an_unfinished_run_is_reported_as_such(tmp_path: Path) -> None:
    """Break it: take the number of rounds from the config."""
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one", "num-server-rounds": 9})
    run = write_run(config, metrics=METRICS)
    finished = json.loads(run.summary_path.read_text())
    run.summary_path.unlink()
    write_report(run.path)
    for name in ("report.md", "report.html"):
        text = (run.path / name).read_text(encoding="utf-8")
        assert "3 of 9 rounds" in text
        assert "This run has not finished: 3 of 9 rounds are done." in text
        assert f"fedsplit run --resume {run.path}" in text
    assert f"{finished['final_accuracy']:.4f}" in (run.path / "report.md").read_text()
    run.rounds_path.write_text("")
    with pytest.raises(ConfigError, match="it has no finished round"):
        write_report(run.path)


def test_a_line_that_was_cut_off_is_no_round(tmp_path: Path) -> None:
    """Break it: read the last line of an unfinished run, too."""
    run = write_run(
        Config.load({"output-dir": str(tmp_path), "run-name": "one", "num-server-rounds": 9})
    )
    run.summary_path.unlink()
    with run.rounds_path.open("a") as file:
        file.write('{"round": 4, "train_lo')
    assert "3 of 9 rounds" in write_report(run.path)[0].read_text(encoding="utf-8")


def test_a_run_that_goes_on_is_not_to_be_continued(tmp_path: Path) -> None:
    """Break it: say how to continue it, while its process makes it."""
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one", "num-server-rounds": 9})
    run = write_run(config)
    run.summary_path.unlink()
    going_on = RunDirectory.reopen(Config.load(config, {"resume": str(run.path)}), 3)
    try:
        text = write_report(run.path)[0].read_text(encoding="utf-8")
    finally:
        going_on.close()
    assert f"3 of 9 rounds so far. Process {os.getpid()} is making it." in text
    assert "--resume" not in text


def test_missing_runs_say_how_far_they_are(directory: Path) -> None:
    """Break it: count the runs without naming them."""
    begun, never = (directory / "runs" / f"iid-full-seed{seed}" for seed in (1, 3))
    (begun / "summary.json").unlink()
    shutil.rmtree(never)
    text = write_report(directory)[1].read_text(encoding="utf-8")
    assert "This comparison has not finished: 2 of 12 runs are missing below." in text
    assert "- `runs/iid-full-seed1`: 3 of 3 rounds" in text
    assert "- `runs/iid-full-seed3`: not begun" in text


def test_the_facts_of_a_run(tmp_path: Path) -> None:
    """Break it: show all keys, or those that say where the run is."""
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one", "batch-size": 7})
    text = write_report(write_run(config).path)[0].read_text(encoding="utf-8")
    facts = text.partition("## Facts")[2]
    for line in (
        "Keys that differ from their defaults: batch-size = 7",
        "Started: 2026-03-01T12:00:00+01:00",
        "Device: cpu",
        "CPU: Example CPU, 2 cores",
        "Commit: abcdef0123456789abcdef0123456789abcdef01",
    ):
        assert f"- {line}\n" in facts


def test_a_run_of_an_older_version_does_not_know_where_it_was_made(tmp_path: Path) -> None:
    """Break it: ask this machine instead."""
    run = write_run(Config.load({"output-dir": str(tmp_path), "run-name": "one"}))
    summary = json.loads(run.summary_path.read_text())
    older = {key: summary[key] for key in summary if key not in ENVIRONMENT_KEYS}
    run.summary_path.write_text(json.dumps(older))
    text = write_report(run.path)[0].read_text(encoding="utf-8")
    assert "- Commit: not known\n" in text


def test_accuracy_by_round_and_class(directory: Path) -> None:
    """Break it: leave the deviation out, or take the classes of one seed."""
    for path in directory.glob("runs/iid-full-seed*/summary.json"):
        first = 0.5 if "seed1" in str(path) else 0.7
        scores = {"class_accuracy": [first, *[None] * 9]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **scores}))
    text = write_report(directory)[1].read_text(encoding="utf-8")
    by_round = "| full | 0.100 ± 0.000 | 0.320 ± 0.014 | 0.420 ± 0.014 | 0.520 ± 0.014 |"
    assert text.count(by_round) == 2
    assert text.count("Test accuracy of each class after the last round") == 1
    assert "| full | 0.60 ± 0.14 | - |" in text


def test_the_keys_of_all_runs_are_those_of_all_runs(tmp_path: Path) -> None:
    """Break it: show the keys of the base, also where a setting or variant overrides them."""
    variants: dict[str, Any] = {"a": {"batch-size": 8, "learning-rate": 0.1}}
    variants["b"] = {"batch-size": 8}
    write_comparison(tmp_path, variants=variants, settings=("dirichlet(0.1)",), seeds=[1])
    base: dict[str, Scalar] = {"batch-size": 4, "learning-rate": 0.2}
    replace(Comparison.read(tmp_path), base=base).write(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    keys = re.search(r"Keys of all runs that differ from their defaults: (.*)", text)
    assert keys is not None
    assert sorted(keys[1].split(", ")) == [
        "batch-size = 8",
        "data.alpha = 0.1",
        "data.partitioner = dirichlet",
    ]


def test_the_report_of_a_run_has_its_balanced_accuracy(tmp_path: Path) -> None:
    """Its text and docs/howto/class-imbalance.md speak of it. Break it: show it to compare only."""
    run = write_run(Config.load({"output-dir": str(tmp_path), "run-name": "one"}))
    summary = json.loads(run.summary_path.read_text())
    run.summary_path.write_text(json.dumps({**summary, "final_balanced_accuracy": 0.25}))
    for path in write_report(run.path):
        text = re.sub(r"<[^>]*>|\|", " ", path.read_text(encoding="utf-8"))
        assert re.search(r"final balanced test accuracy\s+0\.2500", text), path
