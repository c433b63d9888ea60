from __future__ import annotations

import errno
import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsplit import cli
from fedsplit.config import Config
from fedsplit.errors import ChannelError, RunError
from fedsplit.names import printable
from fedsplit.serving import open_grpc
from fedsplit.split.server import SplitServer
from tests.conftest import Call
from tests.data.pictures import image_folder
from tests.preloaded import server

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("engine", ["inprocess", "flower"])
@pytest.mark.parametrize(
    ("setting", "said", "remedy"),
    [
        ("bach-size=3", "bach-size = 3", "did you mean 'batch-size'?"),
        ("batch-size=many", "batch-size = 'many'", "must be a whole number"),
        ("split.cut-layer=0", "split.cut-layer = 0", "greater than or equal to 1"),
        ("split.cut-layer=6", "split.cut-layer = 6", "Set it to 1 to 5"),
        ("split.cut-layer=99", "split.cut-layer = 99", "Set it to 1 to 5"),
        ("data.name=./no/such/folder", "./no/such/folder", "Give the path of a folder"),
        ("model.name=./no/such/model", "./no/such/model", "vit-nano"),
        ("data.name=fashion_mini", "fashion_mini", "did you mean 'fashion-mini'?"),
        ("model.name=vit_nano", "vit_nano", "did you mean 'vit-nano'?"),
        ("num-clients=1000", "1000 clients", "Lower"),
        ("aggregation.name=FedAwg", "FedAwg", "did you mean 'FedAvg'?"),
        ("aggregation.options='eta=1'", "eta", "FedAvg does not take"),
        ("device=abacus", "device = 'abacus'", "Use 'cpu'"),
        ("channel.address='0.0.0.0:1'", "0.0.0.0:1", "loopback"),
        ("batch-size", "--set 'batch-size'", "KEY=VALUE"),
        ("=3", "--set '=3'", "KEY=VALUE"),
        ("data.name=~nosuchuser/x", "~nosuchuser/x", "Give the path of a folder"),
        ("model.name=~nosuchuser/x", "~nosuchuser/x", "vit-nano"),
        ("output-dir=~nosuchuser/x", "~nosuchuser/x", "must not begin with the home"),
        ('output-dir="a\\u0000b"', "output-dir = ", "must not contain the character NUL"),
        ("run-name=a\udce9", "run-name = 'a\\udce9'", "must be text in UTF-8"),
        ("seed=" + "9" * 5000, "seed = '999", "must be a whole number"),
        ("device=meta", "device = 'meta'", "Use 'cpu'"),
        ("aggregation.options='eta=1", "cannot be read", "Write it as"),
    ],
)
def test_what_cannot_run_is_refused_in_one_paragraph(
    call: Call,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    setting: str,
    said: str,
    remedy: str,
) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda *args, **_: started.append(args))
    code, err = call("run", str(config), "--engine", engine, "--set", setting)

    assert code == 2, err
    _assert_one_paragraph(err, said, remedy)
    assert started == []  # refused before Flower is started
    assert not (config.parent / "runs").exists()


def test_a_wrong_key_is_refused_without_the_seconds_that_torch_takes(config: Path) -> None:
    """Break it: import what loads torch before the keys are read."""
    code = (
        "import sys\n"
        "from fedsplit.cli import main\n"
        f"sys.argv = ['fedsplit', 'run', {str(config)!r}, '--set', 'bach-size=3']\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "2 False", done.stderr


def _assert_one_paragraph(err: str, said: str, remedy: str) -> None:
    text = err[err.index("fedsplit: ") :]
    assert "Traceback" not in err
    assert "unexpected" not in text
    assert "\n\n" not in text.strip()
    assert said in text
    assert remedy in text


def test_all_wrong_settings_at_once(call: Call, config: Path) -> None:
    code, err = call("run", str(config), "--set", "a=1", "--set", "seed=x", "--set", "data.alpha=0")
    assert code == 2
    assert f"The overrides of {config} have 3 errors:" in err


def test_output_directories_that_cannot_be_made(call: Call, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, err = call(
        "run", str(config), "--engine", "inprocess", "--output-dir", str(tmp_path / "file" / "x")
    )
    assert code == 2
    _assert_one_paragraph(err, str(tmp_path / "file"), "Set output-dir to a directory")


@pytest.mark.parametrize("engine", ["inprocess", "flower"])
def test_a_run_directory_that_exists(call: Call, config: Path, engine: str) -> None:
    (config.parent / "runs" / "taken").mkdir(parents=True)
    code, err = call("run", str(config), "--engine", engine, "--set", "run-name=taken")
    assert code == 2
    _assert_one_paragraph(err, "runs/taken", "Choose another run-name")


def test_config_files(call: Call, tmp_path: Path) -> None:
    code, err = call("run", "nowhere.toml")
    assert code == 2
    _assert_one_paragraph(err, "nowhere.toml", "Give the path of a TOML file")

    (tmp_path / "bad.toml").write_text("seed = \n")
    code, err = call("run", "bad.toml")
    assert code == 2
    _assert_one_paragraph(err, "bad.toml", "not valid TOML")

    code, err = call("run", ".")
    assert code == 2
    _assert_one_paragraph(err, "There is no pyproject.toml of a Flower app", "fedsplit new DIR")

    for text in ("[tool.other]\n", "tool = 3\n"):
        (tmp_path / "pyproject.toml").write_text(text)
        code, err = call("run", ".")
        assert code == 2
        _assert_one_paragraph(err, "has no [tool.flwr.app]", "Give the app's folder")


def test_the_files_of_a_run_and_of_a_comparison_are_told_apart(call: Call, tmp_path: Path) -> None:
    """Break it: list every key of the other kind as unknown."""
    (tmp_path / "run.toml").write_text('strategy = "full"\nsplit.cut-layer = 1\n')
    (tmp_path / "several.toml").write_text('name = "x"\nseeds = [1]\n[[variants]]\nlabel = "a"\n')
    code, err = call("compare", "run.toml")
    assert code == 2
    _assert_one_paragraph(err, "'run.toml' is the config of one run", "'fedsplit run run.toml'")
    code, err = call("run", "several.toml")
    assert code == 2
    _assert_one_paragraph(err, "the file of a comparison", "'fedsplit compare several.toml'")


def test_the_module_is_the_command_and_shows_its_version() -> None:
    command = [sys.executable, "-m", "fedsplit", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"fedsplit \S+, flwr \S+, torch \S+, Python 3\.\d+\.\d+\n", said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", ".", "--num-clients", "0"),
        ("run", ".", "--num-clients", "x"),
        ("run", ".", "--engine", "steam"),
        ("run", ".", "--nonsense"),
        ("nonsense",),
        ("run", "a", "b"),
        ("compare", "a", "--jobs", "0"),
        ("report", "a", "b"),
    ],
)
def test_wrong_arguments(call: Call, arguments: tuple[str, ...]) -> None:
    code, err = call(*arguments)
    assert code == 2
    assert err.startswith("fedsplit: ")
    command = "fedsplit" if arguments == ("nonsense",) else f"fedsplit {arguments[0]}"
    assert err.endswith(f". See '{command} --help'.\n")
    assert err.count("\n") == 1
    assert arguments[-1] in err


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["run", "--help"], 0), ([], 2)], ids=str
)
def test_help(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    monkeypatch.setattr(sys, "argv", ["fedsplit", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    shown = capsys.readouterr()
    assert "Usage: " in shown.out + shown.err
    assert "fedsplit:" not in shown.err


def test_a_failed_run_and_a_defect_end_with_1(
    call: Call, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedsplit.inprocess as engine

    def fail(_: Config) -> None:
        raise RunError("Every participant failed.")

    monkeypatch.setattr(engine, "run_in_process", fail)
    code, err = call("run", str(config), "--engine", "inprocess")
    assert (code, err) == (1, "fedsplit: Every participant failed.\n")

    def full(_: Config) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine, "run_in_process", full)
    code, err = call("run", str(config), "--engine", "inprocess")
    said = "fedsplit: [Errno 28] No space left on device. Free space on its disk.\n"
    assert (code, err) == (1, said)

    def defect(_: Config) -> None:
        from fedsplit.results.text import fixed

        fixed("x", 2)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "run_in_process", defect)
    monkeypatch.delenv("FEDSPLIT_TRACEBACK", raising=False)
    code, err = call("run", str(config), "--engine", "inprocess")
    assert code == 1
    assert "unexpected TypeError: bad operand" in err
    assert "FEDSPLIT_TRACEBACK=1" in err
    monkeypatch.setenv("FEDSPLIT_TRACEBACK", "1")
    with pytest.raises(TypeError):
        call("run", str(config), "--engine", "inprocess")


@pytest.mark.parametrize("key", ["data.name", "model.name"])
def test_names_longer_than_a_file_name_may_be(
    call: Call, config: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "x" * 300
    code, err = call("run", str(config), "--engine", "inprocess", "--set", f"{key}={name}")
    assert code == 2, err
    _assert_one_paragraph(err, name, "bundled" if key == "data.name" else "built-in")


@pytest.mark.parametrize("config_name", ["x" * 300, "~nosuchuser/x", "a\0b"], ids=ascii)
def test_configs_that_cannot_be(call: Call, config_name: str) -> None:
    code, err = call("run", config_name)
    assert code == 2
    _assert_one_paragraph(err, printable(config_name), "Give the path of a TOML file")


def test_what_no_handler_takes_has_no_codes_for_a_terminal(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: leave the text of Python's last resort as it is, such as of checks before a run."""
    assert logging.lastResort is not None
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    call("runs", "nowhere")
    record = logging.makeLogRecord({"msg": "a\x1b[2J", "levelno": logging.WARNING})
    logging.lastResort.handle(record)
    assert capsys.readouterr().err == "a\ufffd[2J\n"


def _taken(seen: list[Config]) -> Callable[[Config], SimpleNamespace]:
    """Return an engine that only notes what it is to run."""

    def run(config: Config) -> SimpleNamespace:
        seen.append(config)
        return SimpleNamespace(run_directory=SimpleNamespace(path=Path("/runs/one")))

    return run


def test_built_in_names_go_before_folders(
    config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedsplit.inprocess as engine

    seen: list[Config] = []
    monkeypatch.setattr(engine, "run_in_process", _taken(seen))
    for name in ("fashion-mini", "vit-nano"):
        (config.parent / name).mkdir()
    assert call("run", str(config), "--engine", "inprocess") == (0, "")
    assert (seen[0].data.name, seen[0].model.name) == ("fashion-mini", "vit-nano")


def test_a_setting_nested_deeper_than_the_parser_goes_is_a_text(call: Call, config: Path) -> None:
    """Break it: let the parser's RecursionError through."""
    nested = f"model.name={'[' * 100_000}"
    code, err = call("run", str(config), "--engine", "inprocess", "--set", nested)
    assert code == 2
    assert "RecursionError" not in err


def test_settings_are_toml_or_text(
    config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedsplit.inprocess as engine

    seen: list[Config] = []
    monkeypatch.setattr(engine, "run_in_process", _taken(seen))
    settings = ["learning-rate=0.5", "run-name=a=b", 'device="cpu"', "model.pretrained=false"]
    settings += ["split_cut_layer=2", "data.image-column="]
    flags = [part for setting in settings for part in ("--set", setting)]
    (config.parent / "photos").mkdir()
    code, err = call(
        *("run", str(config), "--engine", "inprocess", "--num-clients", "3", *flags),
        *("--output-dir", "here", "--set", "data.name=photos"),
    )
    assert (code, err) == (0, "")
    assert (seen[0].learning_rate, seen[0].run_name, seen[0].device) == (0.5, "a=b", "cpu")
    assert (seen[0].model.pretrained, seen[0].split.cut_layer) == (False, 2)
    assert (seen[0].data.image_column, seen[0].num_clients, seen[0].seed) == ("", 3, 7)
    # Absolute: Flower's processes work in folders of their own.
    assert seen[0].output_dir == str(config.parent / "here")
    assert seen[0].data.name == str(config.parent / "photos")
    assert seen[0].model.name == "vit-nano"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "seed=4", "--set", "seed=8"], "seed is set twice, by '--set seed=4' and by"),
        (["--num-clients", "5", "--set", "num-clients=3"], "and by '--num-clients 5'. Keep one."),
        (["--output-dir", "a", "--set", "output-dir=b"], "by '--set output-dir=b' and by"),
        (["--set", "seed=4", "--set", "seed=4", "--set", "seed=x"], "by '--set seed=x'. Keep one."),
    ],
)
def test_a_key_that_is_set_twice_is_refused(
    call: Call, config: Path, arguments: list[str], said: str
) -> None:
    """Break it: let the last one count without a word."""
    code, err = call("run", str(config), "--engine", "inprocess", *arguments)
    assert code == 2
    assert said in err


@pytest.mark.slow
def test_a_run_ends_with_its_results(config: Path) -> None:
    settings = ("--set", "num-server-rounds=1", "--set", "run-name=one")
    arguments = ("run", str(config), "--engine", "inprocess", *settings)
    done = server().run(["-c", "from fedsplit.cli import main; main()", *arguments], cwd=ROOT)
    shown = done.stdout + done.stderr
    run_dir = config.parent / "runs" / "one"
    assert done.returncode == 0, shown
    assert shown.count(str(run_dir)) == 2  # at the start and at the end
    assert "sflv1 (cut 1), vit-nano on fashion-mini (dirichlet), 4 clients, 1 round," in shown
    summary = json.loads((run_dir / "summary.json").read_text())
    assert f"{summary['final_accuracy']:.4f} final" in shown


def test_a_port_in_use_is_a_failed_run() -> None:
    class Host:
        max_frame_bytes = 1000

        def open(self, token: str) -> None:
            raise AssertionError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = Config.from_flat({"channel.address": f"127.0.0.1:{port}"})
        with pytest.raises(
            ChannelError, match=rf"127\.0\.0\.1:{port}.*in use.*set port 0"
        ) as caught:
            open_grpc(Host(), config)  # type: ignore[arg-type]
    assert caught.value.exit_code == 1
    assert hasattr(SplitServer, "max_frame_bytes")


def test_quiet_shows_the_run_directory_only(
    config: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fedsplit.inprocess as engine

    seen: list[Config] = []
    shown: list[object] = []
    monkeypatch.setattr(engine, "run_in_process", _taken(seen))
    monkeypatch.setattr("builtins.print", lambda *values, **_: shown.extend(values))
    assert call("run", str(config), "--engine", "inprocess", "--quiet") == (0, "")
    assert seen[0].console == "quiet"
    assert shown == [Path("/runs/one")]
    code, _ = call("run", str(config), "-q", "-v")
    assert code == 2


def test_a_dry_run_checks_everything_and_starts_nothing(
    config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: return before the images are looked at."""
    import fedsplit.inprocess as engine

    seen: list[Config] = []
    monkeypatch.setattr(engine, "run_in_process", _taken(seen))
    assert call("run", str(config), "--engine", "inprocess", "--dry-run") == (0, "")
    code, err = call("run", str(config), "--dry-run", "--set", "num-clients=1000")
    assert code == 2
    _assert_one_paragraph(err, "1000 clients", "Lower")
    assert seen == []
    assert not (config.parent / "runs").exists()


def test_a_dry_run_decodes_images_and_says_how_many(
    config: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Break it: leave `check_images` out; the broken image would end the run alone."""
    shown: list[object] = []
    monkeypatch.setattr("builtins.print", lambda *values, **_: shown.extend(values))
    assert call("run", str(config), "--engine", "inprocess", "--dry-run")[0] == 0
    assert "Decoded without a fault: 20 images (the first of each class" in str(shown[-1])
    one = ("--set", "num-server-rounds=1", "--num-clients", "1")
    assert call("run", str(config), "--engine", "inprocess", "--dry-run", *one)[0] == 0
    assert ", 1 client, 1 round, engine inprocess." in str(shown[-1])
    monkeypatch.undo()
    image_folder(tmp_path / "own", {"a": 30, "b": 30})
    (tmp_path / "own" / "a" / "000.png").write_bytes(b"no image")
    own = ("--set", f"data.name={tmp_path / 'own'}", "--engine", "inprocess")
    options = (*own, "--set", "data.partitioner=iid")
    found = [call("run", str(config), *options, *dry) for dry in ([], ["--dry-run"])]
    assert [code for code, _ in found] == [1, 2]  # the run has begun
    for _, err in found:
        assert re.search(r"row 0 of the split 'train'.*a/000.png.*cannot be decoded", err)


def test_only_a_run_under_flower_needs_its_certificates(config: Path, call: Call) -> None:
    """Break it: check them for every engine, or leave them to the run."""
    for key in ("certificate", "private-key"):
        config.write_text(config.read_text() + f'channel.{key} = "none.pem"\n')
    dry = ("run", str(config), "--dry-run", "--engine")
    assert call(*dry, "inprocess") == (0, "")
    code, err = call(*dry, "flower")
    assert code == 2
    assert re.search(r"The split server's certificate '.*none\.pem' cannot be read", err)


def test_an_empty_folder_runs_the_defaults_in_process(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Break it: take the app of another folder, such as fedsplit's own checkout."""
    import fedsplit.inprocess as engine

    seen: list[Config] = []
    said: list[str] = []
    monkeypatch.setattr(engine, "run_in_process", _taken(seen))
    monkeypatch.setattr("builtins.print", lambda *values, **_: said.extend(map(str, values)))
    assert call("run") == (0, "")
    assert seen[0].num_clients == 10
    assert Path(seen[0].output_dir) == tmp_path / "runs"
    assert "run in this process.\n'fedsplit new DIR' makes" in " ".join(said)
    assert max(len(line) for text in said for line in text.splitlines()) <= 80


@pytest.fixture
def app(tmp_path: Path) -> Path:
    from fedsplit.new.project import make_project

    make_project(tmp_path / "my-own-app", "classification")
    return tmp_path / "my-own-app"


def test_a_file_has_the_keys_that_differ_from_the_apps(
    call: Call, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: start from fedsplit's defaults, and another algorithm trains without a word."""
    import fedsplit.inprocess as engine

    seen: list[Config] = []
    monkeypatch.setattr(engine, "run_in_process", _taken(seen))
    monkeypatch.setattr(sys, "path", list(sys.path))
    project = app / "pyproject.toml"
    project.write_text(project.read_text().replace("local-epochs = 1", "local-epochs = 7"))
    (app / "configs" / "one.toml").write_text("batch-size = 8\n")
    file = str(app / "configs" / "one.toml")  # the app is found above the file, too
    arguments = ("--engine", "inprocess", "--set", "batch_size=9", "--num-clients", "2")
    assert call("run", file, *arguments) == (0, "")
    assert seen[0].strategy == "my_own_app.strategy:Strategy"
    assert (seen[0].local_epochs, seen[0].batch_size) == (7, 9)


def test_a_comparison_in_an_app_has_its_code_and_its_defaults(
    app: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Break it: let the workers import only what is installed."""
    text = (app / "configs" / "compare.toml").read_text()
    text = text.replace("num-server-rounds = 3", "data.max-train-samples = 100")
    text = text.replace("seeds = [1, 2]", "seeds = [1]").replace(
        "num-clients = 5", "num-clients = 2"
    )
    text = text.partition('[[variants]]\nlabel = "sflv1"')[0].replace("dirichlet", "iid")
    (app / "configs" / "short.toml").write_text(text)
    project = app / "pyproject.toml"
    project.write_text(
        project.read_text().replace("num-server-rounds = 3", "num-server-rounds = 1")
    )
    command = ["-m", "fedsplit", "compare", str(app / "configs" / "short.toml")]
    done = server().run(command, cwd=tmp_path, timeout=250)
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "runs" / "compare").rglob("summary.json")
    found = json.loads(summary.read_text())
    assert (found["strategy"], found["num_rounds"]) == ("my_own_app.strategy:Strategy", 1)
    comparison = json.loads((tmp_path / "runs" / "compare" / "comparison.json").read_text())
    assert comparison["base"]["num-server-rounds"] == 1  # else its report would not say so


def test_a_mistake_in_the_users_code_names_its_line(
    call: Call, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: call every unexpected error a defect of fedsplit."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    strategy = app / "my_own_app" / "strategy.py"
    strategy.write_text(
        "from strategies.sflv1 import SFLV1\n\n\nclass Strategy(SFLV1):\n"
        "    def aggregate_train(self, server_round, replies):\n        return missing\n"
    )
    monkeypatch.delitem(sys.modules, "my_own_app.strategy", raising=False)
    keys = ("--set", "num-server-rounds=1", "--set", "data.max-train-samples=100")
    code, err = call("run", str(app), "--engine", "inprocess", "--num-clients", "2", *keys)
    assert code == 1
    assert "strategy.py, line 6, in aggregate_train: NameError" in err
    assert "defect" not in err
    (log,) = app.parent.rglob("log.txt")
    assert "Traceback" in log.read_text()
