"""The runs that a comparison's file asks for, all of them checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fedsplit.absolute_paths import with_absolute_paths
from fedsplit.checking import check, check_images, check_shards
from fedsplit.compare.config import OWN_KEYS, CompareConfig, Variation, read_compare
from fedsplit.config import Config, with_clients
from fedsplit.data.run import reading
from fedsplit.errors import ConfigError, FedSplitError

_ONE_SETTING = Variation(label="all")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes
    ----------
    setting : str
        The label of its setting; empty if the comparison has no settings.
    label : str
        The label of its variant.
    seed : int
        The seed of the run.
    config : Config
        Its whole configuration, with the path and name of its directory.
    """

    setting: str
    label: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.config.run_name

    @property
    def directory(self) -> Path:
        """The run directory."""
        return Path(self.config.output_dir) / self.config.run_name


@dataclass(frozen=True)
class Plan:
    """A checked comparison.

    Attributes
    ----------
    source : str
        The path of its file, as given.
    asked : CompareConfig
        The contents of the file.
    directory : Path
        The directory of the whole comparison, absolute.
    runs : tuple[PlannedRun, ...]
        The runs in their order: every variant with the first seed comes first.
    """

    source: str
    asked: CompareConfig
    directory: Path
    runs: tuple[PlannedRun, ...]

    def command(self, jobs: int) -> str:
        """Return the command that makes or continues the comparison, from any folder."""
        where = ["--output-dir", str(self.directory.parent), "--jobs", str(jobs)]
        source = Path(self.source).expanduser().absolute()
        return shlex.join(["fedsplit", "compare", str(source), *where])


def make_plan(path: str | Path, output_dir: str | Path, defaults: Config | None = None) -> Plan:
    """Return the checked plan of a comparison's file.

    Parameters
    ----------
    path : str | Path
        The file.
    output_dir : str | Path
        Where the comparison's directory is made.
    defaults : Config | None
        That of the app to which the comparison belongs, if any. Its keys are part of the base.

    Raises
    ------
    ConfigError
        With everything that is wrong with the file, the keys of a variant, or a run.
    """
    asked, faults = read_compare(path)
    if defaults is not None:
        of_app = {k: v for k, v in defaults.changed().items() if k not in OWN_KEYS}
        asked = asked.model_copy(update={"base": {**of_app, **asked.base}})
    directory = Path(output_dir).expanduser().absolute() / asked.name
    clashing = list(_clashes(asked))
    runs: list[PlannedRun] = []
    found: dict[str, list[tuple[str, str]]] = {}
    for setting in asked.settings or [_ONE_SETTING]:
        for variant in asked.variants:
            try:
                of_pair = _runs(asked, setting, variant, directory)
                runs += of_pair
                _check(of_pair)
            except FedSplitError as error:
                for line in _lines(error):
                    found.setdefault(line, []).append((setting.label, variant.label))
    faults += clashing
    faults += [f"{_where(pairs, asked)}: {line}" for line, pairs in found.items()]
    faults += _same_names(runs)
    if faults:
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        raise ConfigError("\n  ".join([f"{path} has {count}:", *faults]))
    order = {seed: number for number, seed in enumerate(asked.seeds)}
    runs.sort(key=lambda run: order[run.seed])
    return Plan(str(path), asked, directory, tuple(runs))


def _runs(
    asked: CompareConfig,
    setting: Variation,
    variant: Variation,
    directory: Path,
) -> list[PlannedRun]:
    """Return the runs of a variant in a setting, one for each seed."""
    values = {**asked.base, **setting.keys, **variant.keys}
    given = {key: value for key, value in values.items() if key not in OWN_KEYS}
    first = Config.load(given)
    shared = with_clients(with_absolute_paths(first))
    shown = setting.label if asked.settings else ""
    return [
        PlannedRun(
            setting=shown,
            label=variant.label,
            seed=seed,
            config=Config.load(
                shared,
                {
                    "seed": seed,
                    "output-dir": str(directory / "runs"),
                    "run-name": _file_name(shown, variant.label, seed),
                },
            ),
        )
        for seed in asked.seeds
    ]


def _check(runs: list[PlannedRun]) -> None:
    """Refuse what cannot run. A run directory may exist already: its run may have finished."""
    unnamed = [replace(run, config=Config.load(run.config, {"run-name": ""})) for run in runs]
    with reading(unnamed[0].config.data):
        check(unnamed[0].config)
        check_images(unnamed[0].config)
        for run in unnamed:
            check_shards(run.config)


def _file_name(setting: str, label: str, seed: int) -> str:
    parts = [re.sub(r"[^\w.()+=,@-]+", "-", part) for part in (setting, label) if part]
    return "-".join([*parts, f"seed{seed}"]).lstrip(".-")


def _clashes(asked: CompareConfig) -> Iterator[str]:
    """Yield what is wrong with the keys of several tables together."""
    tables = [("[base]", asked.base)]
    tables += [(f"setting '{table.label}'", table.keys) for table in asked.settings]
    tables += [(f"variant '{table.label}'", table.keys) for table in asked.variants]
    for name, keys in tables:
        for key in keys:
            if key in OWN_KEYS:
                yield f"{name}: compare sets {key} in every run; use {OWN_KEYS[key]}"
    for what, alike in (("settings", asked.settings), ("variants", asked.variants)):
        labels = [table.label for table in alike]
        for label in dict.fromkeys(labels):
            if labels.count(label) > 1:
                yield f"{what}: {labels.count(label)} have the label '{label}'; labels must differ"
    for setting in asked.settings:
        for variant in asked.variants:
            for key in setting.keys:
                if key in variant.keys:
                    yield (
                        f"setting '{setting.label}' and variant '{variant.label}' both set {key}: "
                        "set it in only one of them"
                    )


def _lines(error: FedSplitError) -> list[str]:
    """Return the errors in a message of `Config.load`, or the whole message."""
    head, *lines = str(error).split("\n  ")
    return lines or [head]


def _where(pairs: list[tuple[str, str]], asked: CompareConfig) -> str:
    """Name the variants and settings that an error belongs to."""
    settings = list(dict.fromkeys(setting for setting, _ in pairs))
    variants = list(dict.fromkeys(variant for _, variant in pairs))
    every_variant = set(variants) == {v.label for v in asked.variants} and len(variants) > 1
    every_setting = set(settings) == {s.label for s in asked.settings or [_ONE_SETTING]}
    words = ["every variant"] if every_variant else [_listed("variant", variants)]
    if not every_setting:
        words.append("in " + _listed("setting", settings))
    return " ".join(words)


def _listed(what: str, labels: list[str]) -> str:
    return f"{what}{'s' * (len(labels) > 1)} " + ", ".join(f"'{label}'" for label in labels)


def _same_names(runs: list[PlannedRun]) -> list[str]:
    """Return faults for labels that would share a directory, also where case is ignored."""
    first: dict[str, PlannedRun] = {}
    faults = []
    for run in runs:
        other = first.setdefault(run.name.casefold(), run)
        if _shown(other) != _shown(run) and run.seed == runs[0].seed:
            faults.append(
                f"'{_shown(other)}' and '{_shown(run)}' would share the directory "
                f"'{run.name}': choose labels that differ in letters and digits"
            )
    return faults


def _shown(run: PlannedRun) -> str:
    return f"{run.setting} {run.label}".strip()
