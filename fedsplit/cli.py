"""The command line: exit 0 done, 1 the run failed, 2 the arguments or the config are wrong."""

from __future__ import annotations

import os
import platform
import signal
import sys
import tomllib
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import click
import typer

from fedsplit.config import Config, read_toml, with_clients
from fedsplit.errors import ConfigError, FedSplitError, RunError, too_many_files
from fedsplit.names import local_directory
from fedsplit.plan.command import plan

app = typer.Typer(
    name="fedsplit",
    help="Federated split learning of vision transformers on Flower.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        found = ", ".join(f"{name} {version(name)}" for name in ("fedsplit", "flwr", "torch"))
        print(f"{found}, Python {platform.python_version()}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the versions in use."
        ),
    ] = False,
) -> None:
    pass


class EngineName(StrEnum):
    """Which engine runs the clients."""

    FLOWER = "flower"
    INPROCESS = "inprocess"


@app.command()
def run(
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
) -> None:
    """Run one configuration and save its results, or continue a run."""
    overrides = dict(_parse_setting(setting) for setting in settings or [])
    if num_clients is not None:
        overrides["num-clients"] = num_clients
    if output_dir is not None:
        overrides["output-dir"] = output_dir
    from fedsplit.absolute_paths import with_absolute_paths  # loads torch: not for --help

    if resume is None:
        asked = _load(config or ".", overrides)
    else:
        asked = _continued(resume, config, overrides)
    checked = with_clients(with_absolute_paths(asked))
    if (engine or _engine_of(checked)) is EngineName.INPROCESS:
        from fedsplit.inprocess import run_in_process

        run_in_process(checked)
    else:
        from fedsplit.flower_run import run_with_flower

        run_with_flower(checked, app_dir=_app_dir(config or "."))


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

    return EngineName(engine_of(config) or EngineName.FLOWER)


app.command()(plan)


@app.command()
def predict(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ],
    best: Annotated[
        bool, typer.Option("--best", help="Take the weights after the best round, not the last.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all classes as JSON instead of a table.")
    ] = False,
) -> None:
    """Show what the model of a run says of images: the most probable classes."""
    from fedsplit.predict import predict as predict_all  # loads torch: not for --help
    from fedsplit.predict import prediction_table, to_json

    found = predict_all(run_dir, images, best=best)
    print(to_json(found) if as_json else prediction_table(found))  # noqa: T201


@app.command()
def compare(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A comparison's TOML file.")],
    output_dir: Annotated[
        str, typer.Option(help="Where the comparison's directory is made.")
    ] = "runs",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
) -> None:
    """Run every variant of a comparison with every seed, and report how they differ.

    Finished runs are not repeated, so the same command continues an interrupted comparison.
    """
    from rich.console import Console

    from fedsplit.compare.runner import compare as run_all
    from fedsplit.compare.runs import make_plan  # loads torch: not for --help

    asked = make_plan(config, output_dir)
    command = asked.command(jobs)
    comparison = run_all(asked, jobs=jobs, command=command, console=Console(stderr=True))
    _report(asked.directory)
    if comparison.failures:
        names = ", ".join(comparison.failures)
        raise RunError(
            f"{len(comparison.failures)} of {len(comparison.runs)} runs failed ({names}, in "
            f"'{asked.directory}'); their logs are in '{asked.directory / 'logs'}'. Give the same "
            "command again to retry them."
        )


@app.command()
def report(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Directory of a comparison or a run."),
    ],
) -> None:
    """Write the report of a comparison or of a run again."""
    _report(directory)


def _report(directory: Path) -> None:
    from fedsplit.report.write import write_report

    for path in write_report(directory):
        print(path)  # noqa: T201


def main() -> None:
    """Run the command line; an error is one paragraph on stderr."""
    # SIGTERM then ends a run in order, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # In standalone mode Typer would print an error in the arguments as a box.
        sys.exit(app(standalone_mode=False))
    except click.ClickException as error:
        if error.format_message():  # empty if there were no arguments: then help is shown
            said = error.format_message().rstrip(".")
            context = error.ctx if isinstance(error, click.UsageError) else None
            command = context.command_path if context else "fedsplit"
            print(f"fedsplit: {said}. See '{command} --help'.", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except FedSplitError as error:
        print(f"fedsplit: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("FEDSPLIT_TRACEBACK"):
            raise
        if remedy := too_many_files(error):
            print(f"fedsplit: {error}. {remedy}", file=sys.stderr)  # noqa: T201
            sys.exit(RunError.exit_code)
        print(  # noqa: T201
            f"fedsplit: unexpected {type(error).__name__}: {error}. This is a defect; set "
            "FEDSPLIT_TRACEBACK=1 to see where it was raised, and report it.",
            file=sys.stderr,
        )
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _load(config: str, overrides: dict[str, object]) -> Config:
    folder = local_directory(config)
    if folder is None:
        if "variants" in read_toml(Path(config)):
            raise ConfigError(
                f"'{config}' is the file of a comparison: it has [[variants]]. Run it with "
                f"'fedsplit compare {config}'."
            )
        return Config.load(config, overrides)
    project = read_toml(folder / "pyproject.toml")
    try:
        values = project["tool"]["flwr"]["app"]["config"]  # type: ignore[index]
    except (KeyError, TypeError):  # no such table, or no table
        raise ConfigError(
            f"'{folder / 'pyproject.toml'}' has no [tool.flwr.app.config]: it is not the folder of "
            "the fedsplit app. Give the app's folder, or a TOML file of config keys."
        ) from None
    return Config.load(values, overrides)


def _parse_setting(setting: str) -> tuple[str, object]:
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set '{setting}' must be KEY=VALUE, such as --set batch-size=64.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except ValueError:  # not TOML, or a number of more digits than Python reads
        return key.strip(), value  # a text without quotes


def _app_dir(config: str) -> Path:
    """Return the app's folder: the nearest at or above the config's folder, or fedsplit's own."""
    start = local_directory(config) or Path.cwd()
    for folder in (start.resolve(), *start.resolve().parents, Path(__file__).parents[1]):
        project = folder / "pyproject.toml"
        if project.is_file() and "fedsplit.server_app:app" in project.read_text(encoding="utf-8"):
            return folder
    raise ConfigError(
        f"No Flower app of fedsplit in '{start}' or above it. Run the command in a checkout of "
        "fedsplit, or use --engine inprocess."
    )
