from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsplit.config import Config
from fedsplit.errors import ConfigError, RunError
from fedsplit.results import run_names
from fedsplit.results.last_process import LastProcess
from fedsplit.results.run_directory import RunDirectory

FOREIGN = [
    *(
        (name, "a named pipe (FIFO)")
        for name in ("log.txt", "flower.txt", ".lock", "clients.jsonl")
    ),
    *((name, "a folder") for name in ("log.txt", "config.toml", "summary.json", "error.txt")),
    *((name, "a device") for name in ("rounds.jsonl", "shards.json", "process.json", "model")),
    *((name, "a file") for name in ("checkpoints", "model", "best", "clients", "best-clients")),
    *((name, "a folder") for name in ("start.json", "resume.toml", "clients.jsonl")),
]


def config_in(directory: Path, **values: object) -> Config:
    return Config.load({"output-dir": str(directory), **values})


def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_names, "_timestamp", lambda: "20260102-030405")


def test_name_from_strategy_data_set_and_time(tmp_path: Path) -> None:
    config = config_in(tmp_path / "new" / "runs", strategy="full", **{"data.name": "me/cifar10"})
    path = RunDirectory.create(config).path
    assert path.parent == tmp_path / "new" / "runs"
    assert re.fullmatch(r"full-cifar10-\d{8}-\d{6}", path.name)


@pytest.mark.parametrize(
    ("data", "word"),
    [("/data/My photos/", "My-photos"), ("a/b", "b"), ("..", "data"), ("é", "data")],
)
def test_name_is_plain_whatever_the_data_set_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, word: str
) -> None:
    frozen_clock(monkeypatch)
    path = RunDirectory.create(config_in(tmp_path, **{"data.name": data})).path
    assert path == tmp_path / f"sflv1-{word}-20260102-030405"


def test_runs_of_the_same_second_get_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen_clock(monkeypatch)
    config = config_in(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: RunDirectory.create(config).path.name, range(8)))
    base = "sflv1-fashion-mini-20260102-030405"
    assert sorted(made) == sorted([base, *(f"{base}-{number}" for number in range(2, 9))])


def test_relative_output_dir_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory.create(config_in(Path("runs"), **{"run-name": "a"}))
    monkeypatch.chdir("/")
    assert directory.path == tmp_path / "runs" / "a"
    assert directory.model_dir == tmp_path / "runs" / "a" / "model"


@pytest.mark.parametrize("refuse", [RunDirectory.check_free, RunDirectory.create])
def test_named_directory_that_exists_is_refused_and_untouched(
    tmp_path: Path, refuse: type[RunDirectory]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rounds.jsonl").write_text("precious")
    with pytest.raises(ConfigError) as caught:
        refuse(config_in(tmp_path, **{"run-name": "mine"}))  # type: ignore[arg-type]
    assert f"'{tmp_path / 'mine'}'" in str(caught.value)
    assert "another run-name" in str(caught.value)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["rounds.jsonl"]
    assert (tmp_path / "mine" / "rounds.jsonl").read_text() == "precious"


def test_named_directory_taken_after_the_check_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, **{"run-name": "mine"})
    monkeypatch.setattr(RunDirectory, "check_free", lambda _: (tmp_path / "mine").mkdir())
    with pytest.raises(ConfigError, match="exists already"):
        RunDirectory.create(config)


def test_dangling_link_counts_as_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists already"):
        RunDirectory.check_free(config_in(tmp_path, **{"run-name": "mine"}))


def test_check_makes_nothing(tmp_path: Path) -> None:
    RunDirectory.check_free(config_in(tmp_path / "a" / "b", **{"run-name": "mine"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_file_in_the_way_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        RunDirectory.check_free(config_in(tmp_path / "file" / below))
    assert f"'{tmp_path / 'file'}' is not a directory" in str(caught.value)
    assert "output-dir" in str(caught.value)


def test_no_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root can write to every directory
    with pytest.raises(ConfigError, match=f"no permission to write in '{tmp_path}'"):
        RunDirectory.check_free(config_in(tmp_path / "runs"))


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["x" * 200] * 30)  # each name is allowed, the whole path is too long
    with pytest.raises(ConfigError, match="File name too long"):
        RunDirectory.create(config_in(deep))


def test_config_loads_back_equal(tmp_path: Path) -> None:
    odd = 'a "quoted"\\ \x7f\t\n\u2028 é \U0001f600'
    config = config_in(
        tmp_path,
        **{
            "learning-rate": 1e-05,
            "model.pretrained": False,
            "data.image-column": odd,
            "aggregation.options": "eta = 0.1",
        },
    )
    directory = RunDirectory.create(config)
    assert Config.load(directory.config_path) == config
    written = tomllib.loads(directory.config_path.read_text(encoding="utf-8"))
    flat = Config.load(written).to_flat()
    assert flat == config.to_flat()
    num_keys = sum(len(value) if isinstance(value, dict) else 1 for value in written.values())
    assert num_keys == len(flat)


@pytest.mark.parametrize(
    ("folder", "name", "line"),
    [
        ("runs", "a", "# fedsplit run {path} --set run-name=a-again"),
        ("my runs", "a b", "# fedsplit run '{path}' --set 'run-name=a b-again'"),
        ("line\nbreak", "a", "# fedsplit run config.toml"),
    ],
)
def test_config_opens_with_its_command(tmp_path: Path, folder: str, name: str, line: str) -> None:
    config = config_in(tmp_path / folder, **{"run-name": name})
    directory = RunDirectory.create(config)
    first = directory.config_path.read_text(encoding="utf-8").splitlines()[0]
    assert first == line.format(path=directory.config_path)
    assert Config.load(directory.config_path) == config


def test_flwr_run_continues_with_a_file_of_the_directory(tmp_path: Path) -> None:
    """The benchmark of failures does so. Break it: write a relative folder, as it was given."""
    config = config_in(tmp_path, **{"run-name": "a"})
    directory = RunDirectory.create(config)
    text = directory.resume_path.read_text(encoding="utf-8")
    line = f"# flwr run . --stream --run-config {directory.resume_path}"
    assert text.splitlines()[0] == line
    assert Config.load(directory.resume_path) == Config.load(
        config, {"resume": str(tmp_path / "a")}
    )


def test_the_command_to_continue_a_deployed_run_is_the_same_everywhere(tmp_path: Path) -> None:
    """Break it: leave the connection out of resume.toml, or of the sentence in log.txt."""
    config = config_in(tmp_path, **{"run-name": "a"})
    directory = RunDirectory.create(config)
    directory.write_process(LastProcess("flower", deployed=True))
    command = f"flwr run . CONNECTION --stream --run-config {directory.resume_path}"
    assert directory.resume_path.read_text(encoding="utf-8").splitlines()[0] == f"# {command}"
    assert directory.command_to_continue(config.to_flat()) == command
    resumed = Config.load(directory.resume_path)
    assert resumed == Config.load(config, {"resume": str(directory.path)})
    directory.go_on(resumed, 0)
    directory.write_process(LastProcess("inprocess"))
    assert "CONNECTION" not in directory.resume_path.read_text(encoding="utf-8")


def test_a_run_that_another_process_has_finished_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    """Break it: reopen without a look at the summary."""
    config = config_in(tmp_path, **{"run-name": "a", "num-server-rounds": 5})
    directory = RunDirectory.create(config)
    directory.write_summary({"finished_rounds": 5})
    directory.close()
    resumed = Config.load(config, {"resume": str(directory.path)})
    with pytest.raises(ConfigError, match="has been finished by another process"):
        RunDirectory.reopen(resumed, rounds_done=3)
    assert directory.summary_path.is_file()
    longer = Config.load(resumed, {"num-server-rounds": 9})
    reopened = RunDirectory.reopen(longer, rounds_done=5)
    reopened.go_on(longer, rounds_done=5)
    reopened.close()
    assert not directory.summary_path.exists()


@pytest.mark.parametrize("spoilt", ["", "[]", "{}", '{"finished_rounds": "all"}', "[" * 10**5])
def test_a_run_with_a_damaged_summary_says_how_to_go_on(tmp_path: Path, spoilt: str) -> None:
    """Break it: take the number of finished rounds from whatever the file holds."""
    config = config_in(tmp_path, **{"run-name": "a"})
    directory = RunDirectory.create(config)
    directory.close()
    directory.summary_path.write_text(spoilt)
    resumed = Config.load(config, {"resume": str(directory.path)})
    with pytest.raises(ConfigError, match=r"summary\.json' cannot be read \(.*\)\. Move it out of"):
        RunDirectory.reopen(resumed, rounds_done=3)
    directory.summary_path.unlink()
    RunDirectory.reopen(resumed, rounds_done=3).close()


@pytest.mark.parametrize("spoilt", ["5", "{", "{}", '{"round": null}'])
def test_damaged_results_of_clients_say_how_to_go_on(tmp_path: Path, spoilt: str) -> None:
    """Break it: take a line of clients.jsonl for that of a round, whatever it holds."""
    directory = RunDirectory.create(config_in(tmp_path))
    lines = [f'{{"round": {number}, "train": {{"loss": [0.1, null]}}}}\n' for number in (1, 2, 3)]
    directory.client_results_path.write_text("".join(lines))
    directory.keep_client_results(2)
    assert directory.client_results_path.read_text() == "".join(lines[:2])
    directory.append_client_results({"round": 3})
    with directory.client_results_path.open("a") as file:
        file.write(f"{spoilt}\n")
    with pytest.raises(ConfigError, match=r"clients\.jsonl' cannot be read \(.*\)\. Move it "):
        directory.keep_client_results(2)


@pytest.mark.parametrize(("name", "kind"), FOREIGN)
def test_what_is_no_file_of_a_run_is_named_before_the_run_goes_on(
    tmp_path: Path, name: str, kind: str
) -> None:
    """Break it: leave out the file, or the kind. Opening a pipe would wait for ever."""
    config = config_in(tmp_path, **{"run-name": "a"})
    directory = RunDirectory.create(config)
    directory.close()
    path = directory.path / name
    path.unlink(missing_ok=True)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a file":
        path.write_text("")
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    resumed = Config.load(config, {"resume": str(directory.path)})
    with pytest.raises(ConfigError) as caught:
        RunDirectory.reopen(resumed, rounds_done=3)
    assert str(caught.value).startswith(f"'{path}' is {kind}, where a run has a f")


def test_rounds_are_lines_of_strict_json(tmp_path: Path) -> None:
    directory = RunDirectory.create(config_in(tmp_path))
    directory.append_round({"round": 1, "train_loss": float("nan")})
    directory.append_round({"round": 2, "train_loss": 0.5})
    lines = directory.rounds_path.read_text().splitlines()
    assert lines == ['{"round": 1, "train_loss": null}', '{"round": 2, "train_loss": 0.5}']


def test_killed_run_keeps_its_finished_rounds(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from fedsplit.results.run_directory import RunDirectory\n"
        f"directory = RunDirectory(Path({str(tmp_path)!r}))\n"
        "for number in (1, 2, 3):\n"
        "    directory.append_round({'round': number, 'pad': 'x' * 20000})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]


def test_summary_keeps_its_order_and_ends_with_a_newline(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_summary({"z": 1, "a": float("inf")})
    assert directory.summary_path.read_text() == '{\n  "z": 1,\n  "a": null\n}\n'


def test_summary_is_whole_or_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_summary({"a": 1})

    def disk_is_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(RunError, match=r"Cannot write '.*summary\.json': No space left"):
        directory.write_summary({"a": 2})
    assert json.loads(directory.summary_path.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_reader_of_the_old_summary_sees_it_whole(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_summary({"a": 1})
    with directory.summary_path.open() as reader:
        directory.write_summary({"a": 2})
        assert json.load(reader) == {"a": 1}
    assert json.loads(directory.summary_path.read_text()) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_round_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "removed")
    with pytest.raises(RunError, match=r"Cannot write '.*rounds\.jsonl'"):
        directory.append_round({"round": 1})
