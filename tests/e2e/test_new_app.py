"""As a newcomer: a wheel in an empty environment, `fedsplit new`, both engines, the app's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.flower import environment, program
from tests.e2e.processes import processes_of
from tests.e2e.runs import APP_DIR, RunFiles, assert_same_weights

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = [
    *("--num-clients", "2", "--set", "num-server-rounds=1", "--set", "max-concurrent-clients=1"),
    *("--set", "data.max-train-samples=200", "--set", "data.max-test-samples=100"),
]
EMPTY, OTHER_TEMPLATES = "empty", ("classification", "own-model")
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def newcomer() -> Iterator[Path]:
    """Return a folder with an empty environment in which a wheel of fedsplit is installed.

    Its other packages have the locked versions, which are in uv's cache.
    """
    # Ray puts Unix sockets below it, whose paths may have 107 characters: keep it short.
    folder = Path(tempfile.mkdtemp(prefix="fn", dir="/tmp" if Path("/tmp").is_dir() else None))
    uv, python = program("uv"), str(folder / "env" / "bin" / "python")
    constraints = folder / "constraints.txt"
    export = ["--frozen", "--no-hashes", "--no-emit-project", "--group", "dev"]

    def run(*command: str) -> None:
        subprocess.run([uv, *command], check=True, capture_output=True, timeout=300)

    run("build", "--wheel", "--out-dir", str(folder / "dist"), str(APP_DIR))
    run("export", *export, "--project", str(APP_DIR), "--output-file", str(constraints))
    run("venv", "--python", sys.executable, str(folder / "env"))
    (wheel,) = (folder / "dist").glob("*.whl")
    run(
        "pip", "install", "--python", python, "--constraint", str(constraints), str(wheel), "pytest"
    )
    _share_byte_code(folder)
    yield folder
    for home in (folder / "home" / "fedsplit").glob("*"):
        for pid in processes_of(home):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
    shutil.rmtree(folder, ignore_errors=True)


def _share_byte_code(folder: Path) -> None:
    """Give the environment the byte code of this one's libraries, which have the same versions.

    Without it, a dozen processes compile torch and the others first, some of them twice. Python is
    told not to compare it with the source (PEP 552): times differ between two downloads of a wheel.
    """
    here = Path(sysconfig.get_path("purelib"))
    (there,) = (folder / "env" / "lib").glob("python*/site-packages")
    for made in here.rglob(f"__pycache__/*.{sys.implementation.cache_tag}.pyc"):
        target = there / made.relative_to(here)
        source = target.parents[1] / made.name.replace(f"{sys.implementation.cache_tag}.pyc", "py")
        if source.is_file():
            target.parent.mkdir(exist_ok=True)
            code = made.read_bytes()
            target.write_bytes(code[:4] + b"\1\0\0\0" + code[8:])


def call(newcomer: Path, folder: Path, *command: str) -> Done:
    """Run a program of the environment, which knows nothing of this checkout."""
    bin_dir = newcomer / "env" / "bin"
    env = {**environment(newcomer / "home"), "PATH": f"{bin_dir}:{os.environ['PATH']}"}
    for key in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS"):
        env.pop(key, None)
    return subprocess.run(
        [str(bin_dir / command[0]), *command[1:]],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def in_process(newcomer: Path) -> Iterator[dict[str, Future[Done]]]:
    """Return the runs of this process's engine, one after the other, while Flower is waited for."""

    def run_in(name: str) -> Done:
        if name == EMPTY:
            (newcomer / name).mkdir()
            return call(newcomer, newcomer / name, "fedsplit", "run", *SMALL)
        made = call(newcomer, newcomer, "fedsplit", "new", name, "--template", name)
        assert made.returncode == 0, made.stderr
        return call(newcomer, newcomer / name, "fedsplit", "run", *SMALL, "--engine", "inprocess")

    with ThreadPoolExecutor(max_workers=1) as thread:
        yield {name: thread.submit(run_in, name) for name in (EMPTY, *OTHER_TEMPLATES)}


@pytest.mark.usefixtures("in_process")
def test_an_app_from_a_wheel_runs_in_both_engines_and_passes_its_tests(newcomer: Path) -> None:
    """Break it: leave the templates out of the wheel, or the app's package out of its bundle."""
    made = call(newcomer, newcomer, "fedsplit", "new", "my-app", "--template", "own-strategy")
    assert made.returncode == 0, made.stderr
    app = newcomer / "my-app"
    flower = call(newcomer, app, "fedsplit", "run", *SMALL, "--set", "run-name=flower")
    assert flower.returncode == 0, flower.stdout + flower.stderr
    assert f"Run directory: {app / 'runs' / 'flower'}" in flower.stdout
    assert (app / "runs" / "flower" / "flower.txt").is_file()
    here = call(
        newcomer, app, "fedsplit", "run", *SMALL, "--engine", "inprocess", "--set", "run-name=here"
    )
    assert here.returncode == 0, here.stdout + here.stderr
    runs = [RunFiles.read(app / "runs" / name) for name in ("flower", "here")]
    assert [run.summary["engine"] for run in runs] == ["flower", "inprocess"]
    assert_same_weights(runs[0].weights, runs[1].weights)
    assert runs[0].summary["penalty"] == runs[1].summary["penalty"] > 0
    assert "Traceback" not in flower.stdout + flower.stderr + here.stderr

    tests = call(newcomer, app, "python", "-m", "pytest", "-q")
    assert tests.returncode == 0, tests.stdout
    assert "2 passed" in tests.stdout

    (app / "strategies").mkdir()  # a user's own folder of this name
    refused = call(newcomer, app, "fedsplit", "run", *SMALL)
    assert refused.returncode == 2
    assert "would hide the package 'strategies'" in refused.stderr
    assert call(newcomer, app, "fedsplit", "stop").stdout.startswith("Ended the SuperLink")


def test_an_empty_folder_runs_the_defaults(
    newcomer: Path, in_process: dict[str, Future[Done]]
) -> None:
    done = in_process[EMPTY].result()
    assert done.returncode == 0, done.stderr
    assert "run in this process.\n'fedsplit new DIR' makes" in done.stdout
    (run_dir,) = (newcomer / EMPTY / "runs").iterdir()
    assert f"Run directory: {run_dir}" in done.stdout


@pytest.mark.parametrize("template", OTHER_TEMPLATES)
def test_the_other_templates_run(in_process: dict[str, Future[Done]], template: str) -> None:
    done = in_process[template].result()
    assert done.returncode == 0, done.stderr
    assert "Test accuracy" in done.stdout
