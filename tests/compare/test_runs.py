from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import transformers

from fedsplit.compare.runs import make_plan
from fedsplit.config import Config, read_toml
from fedsplit.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = [
    path for path in sorted((ROOT / "configs").glob("*.toml")) if "variants" in read_toml(path)
]
SMALL = """
name = "small"
seeds = [3, 1]
[base]
num-clients = 4
batch-size = 8
[base.data]
max-train-samples = 160
max-test-samples = 50
"""
SETTINGS = """
[[settings]]
label = "iid"
[[settings]]
label = "uneven"
data.partitioner = "dirichlet"
data.min-partition-size = 15
"""
VARIANTS = """
[[variants]]
label = "split"
[[variants]]
label = "not at all"
strategy = "full"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "compare.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_plan(write(tmp_path, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "\n\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_comparisons_are_valid_and_name_their_command(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.Dinov2Config(
        hidden_size=12, num_hidden_layers=12, num_attention_heads=2, image_size=518, patch_size=14
    )
    monkeypatch.chdir(tmp_path)  # a narrow model stands for the one that its script downloads
    transformers.Dinov2Model(config).save_pretrained("models/dinov2-small")
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert shlex.split(first)[:4] == ["#", "fedsplit", "compare", f"configs/{path.name}"]
    plan = make_plan(path, tmp_path / "out")
    assert plan.asked.name == path.stem
    expected = {
        **{"split-vs-full": 60, "split-vs-full-small": 16, "cut-sweep": 66},
        "finetune-compare": 72,
    }
    assert len(plan.runs) == expected[path.stem]
    redundant = [key for key, value in plan.asked.base.items() if Config().to_flat()[key] == value]
    assert redundant == []  # only the keys that differ


def test_every_variant_in_every_setting_with_every_seed(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path, SMALL + SETTINGS + VARIANTS), tmp_path / "out")
    assert [(run.setting, run.label, run.seed) for run in plan.runs] == [
        (setting, label, seed)
        for seed in (3, 1)  # in the order of the file
        for setting in ("iid", "uneven")
        for label in ("split", "not at all")
    ]
    last = plan.runs[-1]
    assert last.directory == tmp_path / "out" / "small" / "runs" / "uneven-not-at-all-seed1"
    shared = {"num-clients": 4, "batch-size": 8, "data.max-train-samples": 160}
    own = {"strategy": "full", "data.partitioner": "dirichlet", "seed": 1}
    flat = last.config.to_flat()
    assert {key: flat[key] for key in {**shared, **own}} == {**shared, **own}


def test_without_settings_every_variant_runs_once_per_seed(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path, SMALL + VARIANTS), tmp_path / "out")
    assert [run.name for run in plan.runs] == [
        *("split-seed3", "not-at-all-seed3", "split-seed1", "not-at-all-seed1")
    ]
    assert {run.setting for run in plan.runs} == {""}


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    text = """
        name = "a/b"
        seeds = [1, 1]
        sedes = 3
        [base]
        batch-sise = 3
        seed = 1
        data.max-train-samples = 160
        [[settings]]
        label = "iid"
        strategy = "sflv1"
        [[variants]]
        label = "one"
        learning-rate = "fast"
        [[variants]]
        label = "two"
        strategy = "full"
        [[variants]]
        label = "two"
        run_name = "x"
        [[variants]]
        split.cut-layer = 2
    """
    said = refusal(tmp_path, text)
    for line in (
        "compare.toml has 10 errors:",
        "name = 'a/b': must be a plain directory name",
        "seeds = [1, 1]: must not contain 1 twice",
        "sedes = 3: unknown key; did you mean 'seeds'?",
        "variants[4].label: must be set",
        "[base]: compare sets seed in every run; use seeds",
        "variant 'two': compare sets run-name in every run; use label",
        "variants: 2 have the label 'two'; labels must differ",
        "setting 'iid' and variant 'two' both set strategy: set it in only one of them",
        "every variant: batch-sise = 3: unknown key; did you mean 'batch-size'?",
        "variant 'one': learning-rate = 'fast': must be a number",
    ):
        assert line in said
    assert len(said.splitlines()) == 11


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "variants: must be set"),
        (SMALL, "variants: must be set"),
        (SMALL + "variants = []", "variants"),
        (SMALL.replace("[3, 1]", "[]") + VARIANTS, "must contain at least one seed"),
        (SMALL.replace("[3, 1]", "[3, -1]") + VARIANTS, "must not contain a negative seed (-1)"),
        (SMALL.replace("[3, 1]", "3") + VARIANTS, "seeds = 3: must be a list"),
        (SMALL.replace("[3, 1]", "[1.5]") + VARIANTS, "seeds[1] = 1.5: must be a whole number"),
        (SMALL + '[[variants]]\nlabel = " x"', "must be printable, without spaces at its ends"),
        (SMALL + '[[variants]]\nlabel = ""', "variants[1].label = '': must not be empty"),
        (SMALL + f'[[variants]]\nlabel = "{"x" * 41}"', "must have at most 40 characters"),
        ("variants = [3]\n" + SMALL, "must be a table with a label"),
        (
            SMALL + '[[variants]]\nlabel = "a b"\n[[variants]]\nlabel = "A-b"',
            "'a b' and 'A-b' would share the directory 'A-b-seed3'",
        ),
        (
            SMALL + VARIANTS + "split.topology = 'u-shaped'",
            "variant 'not at all': split.topology = 'u-shaped' has no effect with strategy = ",
        ),
        (
            SMALL + SETTINGS + VARIANTS + "split.cut-layer = 9",
            "variant 'not at all': ",
        ),
        (
            SMALL + SETTINGS + "batch-size = 40\nlast-batch = 'drop'" + VARIANTS,
            "every variant in setting 'uneven': With batch-size = 40 and last-batch = 'drop',",
        ),
        (
            SMALL + VARIANTS + "lora.rank = 4\nlora_rank = 4",
            "lora.rank is set twice",
        ),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_a_finished_runs_directory_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + VARIANTS)
    for run in make_plan(path, tmp_path).runs:
        run.directory.mkdir(parents=True)
    assert len(make_plan(path, tmp_path).runs) == 4


def test_the_command_works_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: give the paths as they were given."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    write(folder, SMALL + VARIANTS)
    monkeypatch.chdir(folder)
    assert shlex.split(make_plan("compare.toml", "out").command(3)) == [
        *("fedsplit", "compare", str(folder / "compare.toml")),
        *("--output-dir", str(folder / "out"), "--jobs", "3"),
    ]
