"""A local hub: which files are fetched, how often it is asked, and what needs no hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fedsplit.models import load_model
from tests.preloaded import Server

NAME = "someone/some-vit"
COMMIT = "a" * 40


@dataclass
class Log:
    """What a hub has been asked, and whether it still answers."""

    fetched: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    is_off: bool = False


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as fetching files takes."""

    def __init__(self, *args: object, files: Path, log: Log) -> None:
        self.files, self.log = files, log
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.log.requests.append(f"{self.command} {path}")
        if path == "/off":
            self.log.is_off = True
            self._send(b"")
            return
        if self.log.is_off:
            self.log.late.append(path)
            self._send(b"", status=503)
            return
        file = self.files / path.rpartition("/")[2]
        names = sorted(found.name for found in self.files.iterdir())
        if path.startswith(f"/api/models/{NAME}/revision/"):
            siblings = [{"rfilename": name} for name in names]
            self._send(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            tree = [{"type": "file", "path": name, "size": 1, "oid": name} for name in names]
            self._send(json.dumps(tree).encode())
        elif path.startswith(f"/{NAME}/resolve/") and file.is_file():
            if with_body:
                self.log.fetched.append(file.name)
            self._send(file.read_bytes(), with_body=with_body)
        else:
            self._send(b"", status=200 if path == "/" else 404)

    def _send(self, body: bytes, *, status: int = 200, with_body: bool = True) -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def files(vit_directory: Path, tmp_path: Path) -> Path:
    """The tiny ViT in shards of some kilobytes."""
    load_model(str(vit_directory)).save_pretrained(tmp_path / "files", max_shard_size="16KB")  # type: ignore[operator]
    return tmp_path / "files"


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def fetched(log: Log) -> list[str]:
    return log.fetched


@pytest.fixture(scope="module")
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def address(hub: ThreadingHTTPServer, files: Path, log: Log) -> str:
    hub.RequestHandlerClass = partial(Hub, files=files, log=log)
    return _address(hub)


def _address(hub: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{hub.server_port}"


# huggingface_hub reads its environment when it is imported, hence a server with one of its own.
@pytest.fixture(scope="module")
def processes(
    hub: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(_environment(_address(hub), tmp_path_factory.mktemp("hub") / "home"))
    yield server
    server.close()


@pytest.fixture
def home(processes: Server) -> Iterator[Path]:
    """Return where these processes keep what they fetch: nothing at first."""
    path = Path(processes.environment["HF_HOME"])
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _environment(address: str, home: Path) -> dict[str, str]:
    """Return an environment with this hub as the only one there is."""
    return {
        **{"PATH": "", "HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"},
        **{"PYTHONPATH": os.pathsep.join(sys.path), "NO_PROXY": "127.0.0.1"},
    }


LOAD = """
import json, sys
import torch
from fedsplit.errors import ModelError
from fedsplit.models import load_split_model, load_model
name, directory, parts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
try:
    split = load_split_model(name, [1], parts=parts, num_labels=4 if "top" in parts else None)
except ModelError as error:
    sys.exit(f"told: {error}")
stored = load_model(directory).state_dict()
state = split.bottom.state_dict()
assert state and all(torch.equal(stored[key], tensor) for key, tensor in state.items())
"""


PLAN = """
import sys
from fedsplit.cli import main
sys.argv = ["fedsplit", "plan", sys.argv[1], "--json"]
main()
"""


def load(processes: Server, files: Path, parts: list[str]) -> str:
    """Load in another process, and return what it says if it fails."""
    return _said(processes.run(["-c", LOAD, NAME, str(files), json.dumps(parts)]))


def load_elsewhere(address: str, home: Path, files: Path, parts: list[str]) -> str:
    """Do the same where another address is that of the hub."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, NAME, str(files), json.dumps(parts)],
        env=_environment(address, home),
        capture_output=True,
        text=True,
        check=False,
    )
    return _said(done)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    # Before it, while files come, a bar of the library's.
    return "" if done.returncode == 0 else done.stderr.splitlines()[-1]


def shards(files: Path, *starts: str) -> set[str]:
    index = json.loads((files / "model.safetensors.index.json").read_text())["weight_map"]
    return {file for key, file in index.items() if key.startswith(starts)}


@pytest.mark.slow
def test_only_the_shards_of_the_parts_are_fetched(
    files: Path, address: str, fetched: list[str], processes: Server, home: Path
) -> None:
    """Break it: fetch all that is safetensors."""
    every, bottom = shards(files, ""), shards(files, "vit.embeddings.")
    assert len(every) >= 2 * len(bottom) > 0
    assert load(processes, files, ["bottom"]) == ""
    index, config = "model.safetensors.index.json", "config.json"
    assert sorted(fetched) == sorted([config, index, *bottom])
    # The rest comes when it is wanted, and nothing comes twice.
    assert load(processes, files, ["bottom", "trunk", "top"]) == ""
    assert sorted(fetched) == sorted([config, index, *every])


@pytest.mark.slow
def test_a_model_in_one_file_is_fetched_as_one(
    files: Path,
    vit_directory: Path,
    address: str,
    fetched: list[str],
    processes: Server,
    home: Path,
) -> None:
    """Break it: look for an index only."""
    shutil.rmtree(files)
    shutil.copytree(vit_directory, files)
    assert load(processes, files, ["bottom"]) == ""
    assert sorted(fetched) == ["config.json", "model.safetensors"]


@pytest.mark.slow
def test_a_shard_that_cannot_be_had_is_one_clear_error(
    files: Path, address: str, fetched: list[str], processes: Server, home: Path
) -> None:
    """Break it: let the file's absence speak."""
    (missing,) = shards(files, "vit.embeddings.cls_token")
    (files / missing).unlink()
    said = load(processes, files, ["bottom"])
    assert said.startswith(f"told: The file {missing} of the model '{NAME}' cannot be fetched")
    assert missing not in fetched
    # The configs are in the cache now; a hub that refuses the connection has no more.
    said = load_elsewhere("http://127.0.0.1:9", home, files, ["bottom"])
    assert said.startswith(f"told: The file {missing} of the model '{NAME}' is not in the local")
    assert "the hub at http://127.0.0.1:9 cannot be reached" in said
    assert "local directory" in said


@pytest.mark.slow
def test_a_plan_needs_the_config_alone(
    files: Path, address: str, fetched: list[str], processes: Server, home: Path
) -> None:
    """Break it: load the model whose cuts are planned."""
    done, local = (processes.run(["-c", PLAN, model]) for model in (NAME, str(files)))
    assert done.returncode == 0, done.stderr
    assert fetched == ["config.json"]
    cuts = json.loads(done.stdout)["cuts"]
    assert len(cuts) == 3
    assert cuts == json.loads(local.stdout)["cuts"]


PROBES = {"HEAD /", "GET /off"}
# Reaching "Run directory" a run has started: its clients have described themselves.
RUN = """
import json, logging, os, pathlib, sys, urllib.request
from fedsplit import simulate
class TurnOff(logging.Handler):
    def emit(self, record):
        if "Run directory" in record.getMessage():
            urllib.request.urlopen(sys.argv[1] + "/off")
            for file in pathlib.Path(os.environ["HF_HOME"]).rglob("*.safetensors"):
                file.unlink()
logging.getLogger("fedsplit.run").addHandler(TurnOff())
result = simulate(json.loads(sys.argv[2]))
print(json.dumps([row["failed_clients"] for row in result.rounds]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", [{}, {"split.trainable": "lora", "split.cut-layer": 2}, {"strategy": "full"}]
)
def test_a_run_asks_the_hub_once_and_not_after_its_start(
    address: str,
    log: Log,
    processes: Server,
    home: Path,
    tmp_path: Path,
    keys: dict[str, object],
) -> None:
    """3 rounds x 4 clients ask nothing twice, and need no weights on disk either.

    Break it: look the name up for every message. With adapters, clients hold frozen weights: break
    it by loading these in the first round.
    """
    config: dict[str, object] = {
        "model.name": NAME,
        "num-clients": 4,
        "num-server-rounds": 3,
        "batch-size": 8,
        "data.max-train-samples": 60,
        "data.max-test-samples": 10,
        "output-dir": str(tmp_path / "runs"),
        **keys,
    }
    done = processes.run(["-c", RUN, address, json.dumps(config)])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], [], []]
    assert log.is_off
    assert log.late == []
    questions = [question for question in log.requests if question not in PROBES]
    assert len(questions) == len(set(questions)) > 3
