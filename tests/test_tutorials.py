"""Every command of the tutorials and how-tos runs, with few images and rounds."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from fedsplit.config import DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.predict import predict
from tests.conftest import Call
from tests.preloaded import server

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/howto/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SMALL = {"num-clients": 5, "data.max-train-samples": 300, "data.max-test-samples": 50}
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PICTURES = ("photo.jpg", "more-photos/1.png", "shapes/triangle/002.png")


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the texts of a page's blocks in one of the languages."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def files(page: Path) -> dict[str, str]:
    """Return the files that a page shows, by name: blocks whose first line is ``# name``."""
    texts = blocks(page, "python", "toml")
    named = [(re.match(r"# (\w+\.(?:py|toml))\b", text), text) for text in texts]
    return {name[1]: text for name, text in named if name}


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks."""
    joined = [text.replace("\\\n", " ") for text in blocks(page, "bash")]
    return [line for text in joined for line in text.splitlines() if line]


WITH_COMMANDS = [page for page in PAGES if commands(page)]


def test_pages_with_commands_are_found() -> None:
    """Break it: misspell `bash` in the pattern."""
    assert len(WITH_COMMANDS) >= 14
    assert sum(len(files(page)) for page in PAGES) >= 8


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_every_command_of_the_page_runs(
    page: Path, folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: misspell a key of a config, or a base class in a Python file, of a page."""
    for name, text in files(page).items():
        fewer = re.sub(r"^(num-server-rounds|local-epochs) = \d+", r"\1 = 1", text, flags=re.M)
        (folder / name).write_text(re.sub(r"= (?:2000|500)$", "= 300", fewer, flags=re.M))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))  # for the processes of a comparison
    if page.stem == "resume":
        _interrupt(_make_run(call, folder, rounds=2))
    monkeypatch.chdir(folder)
    for command in commands(page):
        if command.startswith("cd "):
            monkeypatch.chdir(command.removeprefix("cd "))
        else:
            _run(command, Path.cwd(), call)


@pytest.mark.slow
def test_a_trained_model_loads_in_transformers(folder: Path, call: Call) -> None:
    """Break it: leave the image's conversion out of load.py of the page."""
    run_dir = _make_run(call, folder)
    shown = files(ROOT / "docs" / "howto" / "use-the-model.md")
    scripts = {"load.py": [str(run_dir), "photo.jpg"], "parts.py": [str(run_dir)]}
    for name, arguments in scripts.items():
        (folder / name).write_text(shown[name])
        done = server().run([name, *arguments], cwd=folder)
        assert done.returncode == 0, done.stderr
        assert name == "parts.py" or done.stdout.strip() in CLASSES
    _same_classes_as_predict(run_dir, folder)


def _same_classes_as_predict(run_dir: Path, folder: Path) -> None:
    """Photos that are stored sideways. Break it: leave exif_transpose out of load.py."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photos = [folder / f"sideways-{number}.png" for number in range(8)]
    rows = load_images(DataConfig()).test.select(range(0, 800, 100))
    for photo, row in zip(photos, rows, strict=True):
        row["image"].transpose(Image.Transpose.ROTATE_90).save(photo, exif=exif)
    expected = [next(iter(found.probabilities)) for found in predict(run_dir, photos)]
    said = [server().run(["load.py", str(run_dir), str(photo)], cwd=folder) for photo in photos]
    assert [done.stdout.strip() for done in said] == expected


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with what the pages take for granted: configs, and some pictures."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in PICTURES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 255).save(tmp_path / name)
    yield tmp_path
    for page in PAGES:
        for name in files(page):
            sys.modules.pop(Path(name).stem, None)


def _run(command: str, folder: Path, call: Call) -> None:
    program, *arguments = shlex.split(command)
    if program == "export":
        assert arguments == ["PYTHONPATH=$PWD"]
        return
    if program == "python":
        done = server().run(arguments, cwd=folder)
        assert done.returncode == 0, (command, done.stderr)
        return
    assert program == "fedsplit", command
    if "RUN_DIR" in command:
        run_dir = _newest_run(folder) or _make_run(call, folder)
        arguments = [argument.replace("RUN_DIR", str(run_dir)) for argument in arguments]
    if arguments[0] == "run":
        arguments = _smaller(arguments)
    code, said = call(*arguments)
    assert code == 0, (command, said)


def _smaller(arguments: list[str]) -> list[str]:
    """Return the arguments of `fedsplit run`, for an in-process run of few images and rounds."""
    _, *rest = (str(ROOT) if argument == "." else argument for argument in arguments)
    if "--resume" in rest:
        return ["run", *rest]
    rest = [re.sub(r"^num-server-rounds=\d+$", "num-server-rounds=1", word) for word in rest]
    of_the_page = rest[0].endswith(".toml") and "/" not in rest[0]  # it was made small already
    small = {} if of_the_page or "config.toml" in rest[0] else {**SMALL}
    small["num-server-rounds"] = 1
    given = " ".join(rest).replace("--num-clients ", "num-clients=")
    return [
        *("run", *rest),
        *([] if "--engine" in rest else ["--engine", "inprocess"]),
        *(f"--set={key}={value}" for key, value in small.items() if f"{key}=" not in given),
    ]


def _make_run(call: Call, folder: Path, rounds: int = 1) -> Path:
    settings = {**SMALL, "num-server-rounds": rounds}
    code, said = call(
        *("run", str(ROOT), "--engine", "inprocess"),
        *(f"--set={key}={value}" for key, value in settings.items()),
    )
    assert code == 0, said
    made = _newest_run(folder)
    assert made is not None
    return made


def _interrupt(run_dir: Path) -> None:
    """Leave the directory as a run does that was killed in its second round."""
    (run_dir / "summary.json").unlink()
    (run_dir / "checkpoints" / "round-000002.safetensors").unlink()


def _newest_run(folder: Path) -> Path | None:
    runs = [path.parent for path in folder.glob("runs/*/config.toml")]
    return max(runs, key=lambda path: path.stat().st_mtime_ns, default=None)
