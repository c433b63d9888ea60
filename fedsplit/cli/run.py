"""``fedsplit run``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsplit.app_project import AppProject
from fedsplit.collector import waiting_collector
from fedsplit.config import Config, read_toml, with_clients
from fedsplit.errors import ConfigError, InterruptionError
from fedsplit.names import local_directory


class EngineName(StrEnum):
    """Which engine runs the clients."""

    FLOWER = "flower"
    INPROCESS = "inprocess"


def run(  # noqa: PLR0913, PLR0917 - one for each option
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG | .]", help="A TOML file, or the app's folder. [default: .]"
        ),
    ] = None,
    num_clients: Annotated[
        int | None, typer.Option(min=1, help="Clients. [default: num-clients, or 10]")
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            help="Flower, or threads of this process. [default: flower, or that of a resumed run]"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key.")
    ] = None,
    output_dir: Annotated[
        str | None, typer.Option(help="Where the run directory is made. [default: output-dir]")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN_DIR", help="Continue this run after its last checkpoint."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and start nothing.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show warnings, and the run directory at the end.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what Flower logs, too.")
    ] = False,
    superlink: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A connection of Flower's configuration. [default: the project's own SuperLink]",
        ),
    ] = None,
) -> None:
    """Run one configuration and save its results, or continue a run.

    CONFIG is a TOML file or the folder of an app, by default the one here. Where there is no app,
    the defaults run in this process.
    """
    given: dict[str, object] = {"num-clients": num_clients, "output-dir": output_dir}
    overrides = _overrides(settings or [], given)
    if console := _console(quiet=quiet, verbose=verbose):
        overrides["console"] = console
    with _interruption_in_words(), waiting_collector():
        asked, project, engine = _asked(config, resume, engine, overrides)
        run_dir = None if dry_run else _run(asked, project, engine, superlink)
    if run_dir is None:
        _check_only(asked, engine)
    elif quiet:
        print(run_dir)  # noqa: T201


@contextmanager
def _interruption_in_words() -> Iterator[None]:
    """Say what Ctrl-C has ended: Typer itself would end the command without a word."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptionError(str(error) or "Interrupted before the run began.") from None


def _asked(
    config: str | None,
    resume: Path | None,
    engine: EngineName | None,
    overrides: dict[str, object],
) -> tuple[Config, AppProject | None, EngineName]:
    """Return the whole config, the app that it is for, if any, and the engine."""
    folder = local_directory(config) if config else None
    project = AppProject.find(
        *([folder] if folder else [Path.cwd(), *_folder_of(config, resume)]),
        or_own=folder is None and (bool(config or resume) or engine is EngineName.FLOWER),
    )
    quiet = overrides.get("console") == "quiet"
    if project is not None:
        project.make_importable()
        if folder is not None and project.folder != folder.resolve() and not quiet:
            print(f"The app is in '{project.folder}'.", flush=True)  # noqa: T201
    elif config is None and resume is None and engine is not EngineName.FLOWER:
        engine = EngineName.INPROCESS
        print(  # noqa: T201
            "There is no app here, so the defaults run in this process.\n"
            "'fedsplit new DIR' makes an app of your own.",
            flush=True,
        )
    if not quiet:
        print("Checking the configuration ...", flush=True)  # noqa: T201 - it takes seconds
    if resume is None:
        asked = _load(config, project, overrides)
    else:
        asked = _continued(resume, config, overrides)
    from fedsplit.absolute_paths import with_absolute_paths  # loads torch: not for wrong keys

    asked = with_clients(with_absolute_paths(asked))
    engine = engine or _engine_of(asked)
    if project is not None:
        project.check()
    elif engine is EngineName.FLOWER:
        raise _no_app(config)
    return asked, project, engine


def _folder_of(config: str | None, resume: Path | None) -> list[Path]:
    """Return the folder in which a config or a run directory is: its app may be above it."""
    return [resume] if resume is not None else [Path(config).parent] if config else []


def _run(
    config: Config, project: AppProject | None, engine: EngineName, superlink: str | None
) -> Path:
    """Run a config, and return the run directory."""
    if engine is EngineName.INPROCESS:
        from fedsplit.inprocess import run_in_process

        return run_in_process(config).run_directory.path
    from fedsplit.flower_run import run_with_flower

    assert project is not None
    return run_with_flower(config, app_dir=project.folder, superlink=superlink)


def _console(*, quiet: bool, verbose: bool) -> Literal["quiet", "verbose"] | None:
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other. Give one of them.")
    return "quiet" if quiet else "verbose" if verbose else None


def _check_only(config: Config, engine: EngineName) -> None:
    from fedsplit.checking import check, check_images, check_shards
    from fedsplit.data.run import reading
    from fedsplit.results.run_names import free_name
    from fedsplit.results.text import counted
    from fedsplit.run_log import early_warnings
    from fedsplit.tls import check_certificates

    with reading(config.data), early_warnings():
        check(config)
        if engine is EngineName.FLOWER:
            check_certificates(config.channel)
        check_shards(config)
        decoded = check_images(config)
    print(  # noqa: T201
        f"This can run: {config.strategy}, {config.model.name} on {config.data.name} "
        f"({config.data.partitioner}), {counted(config.num_clients, 'client')}, "
        f"{counted(config.num_server_rounds, 'round')}, engine {engine}. Decoded without a fault: "
        f"{counted(decoded, 'image')} (the first of each class, to train and to test, for half a "
        "second at most). Its run directory would be "
        f"'{Path(config.output_dir) / free_name(config)}'. Nothing was started."
    )


def _continued(run_dir: Path, config: str | None, overrides: dict[str, object]) -> Config:
    from fedsplit.resume import continued

    if config is not None:
        raise ConfigError(
            f"--resume takes the config of '{run_dir}', so '{config}' cannot be given too. Change "
            "single keys with --set."
        )
    return continued(run_dir, overrides)


def _engine_of(config: Config) -> EngineName:
    if not config.resume:
        return EngineName.FLOWER
    from fedsplit.resume import engine_of

    engine = engine_of(config)
    if engine is None:
        raise ConfigError(
            f"It is not known which engine the run in '{config.resume}' began with: it ended "
            "before it wrote that down. Add --engine inprocess or --engine flower."
        )
    return EngineName(engine)


def _load(config: str | None, project: AppProject | None, overrides: dict[str, object]) -> Config:
    """Return the config of a file, of the app, or the defaults, with overrides.

    A file has the keys that differ from the app's.
    """
    if config is None or local_directory(config) is not None:
        if project is None and config is not None:
            raise _no_app(config)
        return Config.load({} if project is None else project.config, overrides)
    if "variants" in read_toml(Path(config)):
        raise ConfigError(
            f"'{config}' is the file of a comparison: it has [[variants]]. Run it with "
            f"'fedsplit compare {config}'."
        )
    return Config.load(config, overrides, base=None if project is None else project.config)


def _no_app(config: str | None) -> ConfigError:
    where = Path(config or ".").expanduser().resolve()
    project = where / "pyproject.toml"
    what = (
        f"'{project}' has no [tool.flwr.app], so it is not that of a Flower app"
        if project.is_file()
        else f"There is no pyproject.toml of a Flower app in '{where}' or above it"
    )
    return ConfigError(
        f"{what}. Give the app's folder or a TOML file of config keys, make an app with "
        "'fedsplit new DIR', or use --engine inprocess, which needs none."
    )


def _overrides(settings: list[str], given: dict[str, object]) -> dict[str, object]:
    """Return the keys of --set and of the options that are short for some of them."""
    pairs = [(f"--set {setting}", *_parse_setting(setting)) for setting in settings]
    pairs += [(f"--{key} {value}", key, value) for key, value in given.items() if value is not None]
    found: dict[str, object] = {}
    said: dict[str, str] = {}
    for words, key, value in pairs:
        if key in found and found[key] != value:
            raise ConfigError(f"{key} is set twice, by '{said[key]}' and by '{words}'. Keep one.")
        found[key], said[key] = value, words
    return found


def _parse_setting(setting: str) -> tuple[str, object]:
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set '{setting}' must be KEY=VALUE, such as --set batch-size=64.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # not TOML, or more digits or brackets than Python reads
        return key.strip(), value  # a text without quotes
