from __future__ import annotations

import importlib.util
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsplit import Config, simulate
from fedsplit.checking import check
from fedsplit.errors import ConfigError
from fedsplit.fields import ROW_KEYS
from fedsplit.results.sinks import Sinks, TensorBoard
from tests.conftest import Run

ROW: dict[str, Any] = {
    **dict.fromkeys(ROW_KEYS),
    "round": 1,
    "test_accuracy": 0.25,
    "train_loss": 2.5,
    "cut_uplink_bytes": 2**40 + 1,
    "failed_clients": [{"client": 3, "reason": "lost"}],
}


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def _wandb_history(folder: Path) -> tuple[list[dict[str, str]], dict[str, str], int]:
    """Read the file of an offline run: its rows, its summary, and its exit code."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service may still be writing
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    rows: list[dict[str, str]] = []
    summary: dict[str, str] = {}
    exit_code = -1
    for data in _log_records(path.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = record.history.item
            rows.append({item.key or item.nested_key[0]: item.value_json for item in items})
        if record.HasField("summary"):
            summary |= {i.key or i.nested_key[0]: i.value_json for i in record.summary.update}
        if record.HasField("exit"):
            exit_code = record.exit.exit_code
    return rows, summary, exit_code


def _log_records(file: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, after the seven bytes that name the kind.

    A block of 32 KiB holds pieces of records, each with a checksum (4 bytes), a length (2) and
    whether it is a whole record (1), the first piece of one (2), a middle (3) or the last (4).
    """
    at, record = 7, b""
    while at + 7 <= len(file):
        if 2**15 - at % 2**15 < 7:  # no room for a piece: the rest of the block is empty
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack_from("<HB", file, at + 4)
        record = (b"" if kind in (1, 2) else record) + file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record


def test_a_run_uses_no_sink_by_default(run: Run) -> None:
    result = run()
    assert {path.name for path in result.run_dir.iterdir()}.isdisjoint({"tensorboard", "wandb"})


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_both_hold_what_rounds_jsonl_holds(tiny: dict[str, object]) -> None:
    """Break it: send the row before the test scores are in it, or rows by the summary's names."""
    result = simulate(tiny, **{"sinks.tensorboard": True, "sinks.wandb": "offline"})
    accuracies = [(row["round"], row["test_accuracy"]) for row in result.rounds]
    sent = [(row["round"], row["cut_uplink_bytes"]) for row in result.rounds]

    scalars = _scalars(result.run_dir / "tensorboard")
    assert scalars["test/test_accuracy"] == pytest.approx(dict(accuracies))
    assert scalars["cut/cut_uplink_bytes"] == pytest.approx(dict(sent))

    rows, summary, exit_code = _wandb_history(result.run_dir)
    assert [(int(r["round/round"]), float(r["test/test_accuracy"])) for r in rows] == accuracies
    assert [(int(r["round/round"]), int(r["cut/cut_uplink_bytes"])) for r in rows] == sent
    assert float(summary["final_accuracy"]) == result.summary["final_accuracy"]
    assert int(summary["cut_uplink_bytes"]) == result.summary["cut_uplink_bytes"]
    assert exit_code == 0


def test_only_numbers_are_sent_and_failures_are_counted(tmp_path: Path) -> None:
    sinks = Sinks(Config.load({"sinks.tensorboard": True}), tmp_path)
    sinks.send_round(ROW)
    sinks.close()
    scalars = _scalars(tmp_path / "tensorboard")
    assert scalars["failed/failed_clients"] == {1: 1.0}
    assert "test/test_loss" not in scalars
    assert set(scalars) == {
        *("round/round", "test/test_accuracy", "train/train_loss"),
        *("cut/cut_uplink_bytes", "failed/failed_clients"),
    }


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    """Break it: open TensorBoard's file without `purge_step`."""
    for config, rounds_done, rounds, loss in [
        (Config(), 0, [1, 2, 3], 1.0),
        (Config.load({"resume": str(tmp_path)}), 1, [2], 0.5),
    ]:
        board = TensorBoard(config, tmp_path, rounds_done)
        for number in rounds:
            board.send_round({**ROW, "round": number, "train_loss": loss})
        board.close()
        time.sleep(1.1)  # files of one second are read in the order of their process ids
    found = _scalars(tmp_path / "tensorboard")
    (losses,) = [steps for tag, steps in found.items() if tag.endswith("train_loss")]
    assert losses == {1: 1.0, 2: 0.5}


def test_declared_metrics_have_a_group_of_their_own(tmp_path: Path) -> None:
    """Break it: group every key by its first word."""
    sinks = Sinks(Config.load({"sinks.tensorboard": True}), tmp_path)
    sinks.send_round(ROW | {"test_norm": 2.5})
    sinks.close()
    scalars = _scalars(tmp_path / "tensorboard")
    assert scalars["metrics/test_norm"] == {1: 2.5}
    assert "test/test_accuracy" in scalars


def test_a_run_without_a_summary_has_failed(tmp_path: Path) -> None:
    sinks = Sinks(Config.load({"sinks.wandb": "offline"}), tmp_path)
    sinks.send_round(ROW)
    sinks.close()
    rows, _, exit_code = _wandb_history(tmp_path)
    assert (rows[0]["test/test_accuracy"], exit_code) == ("0.25", 1)


def test_a_run_survives_a_sink_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: let the error out of `Sinks._tell`."""

    def full(sink: TensorBoard, row: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(TensorBoard, "send_round", full)
    sinks = Sinks(Config.load({"sinks.tensorboard": True}), tmp_path)
    with caplog.at_level(logging.WARNING):
        sinks.send_round(ROW)
        sinks.send_round(ROW)
        sinks.close()
    (message,) = caplog.messages
    assert "sinks.tensorboard gets no more data of this run (OSError: No space" in message


@pytest.mark.parametrize(
    ("key", "value", "library"),
    [("sinks.tensorboard", True, "tensorboard"), ("sinks.wandb", "offline", "wandb")],
)
def test_a_missing_library_is_reported_before_the_run(
    tiny: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: object,
    library: str,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "fedsplit.results.sinks.find_spec", lambda name: None if name == library else found(name)
    )
    check(Config.load(tiny))
    with pytest.raises(ConfigError, match=rf"{key} needs the package '{library}'.*pip install"):
        check(Config.load(tiny, {key: value}))


def test_a_missing_login_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**settings: object) -> None:
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setattr("wandb.init", refused)
    with pytest.raises(ConfigError, match=r"sinks.wandb = 'online'.*not configured.*wandb login"):
        Sinks(Config.load({"sinks.wandb": "online"}), tmp_path)
