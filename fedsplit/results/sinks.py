"""Sinks that a run sends its rounds to while it goes on: TensorBoard, W&B, Prometheus.

All are off by default and get copies: rounds.jsonl and summary.json are always written.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fedsplit.addresses import is_loopback
from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.fields import FIELDS, METRICS_GROUP, as_number
from fedsplit.results.files import read_lines
from fedsplit.results.run_paths import RunPaths

_logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


class Sink(Protocol):
    """Takes a run's rounds and its summary."""

    def send_round(self, row: Row) -> None:
        """Take the row of a round (see `fedsplit.fields.ROUND_FIELDS`)."""

    def send_summary(self, summary: Row) -> None:
        """Take the summary (see `fedsplit.results.summary.summarise`)."""

    def close(self) -> None:
        """Write what is still pending. Without a summary before, the run counts as failed."""


def check_sinks(config: Config) -> None:
    """Refuse a sink whose library is not installed, or that would speak in the clear.

    Raises
    ------
    ConfigError
        Names the key and the library.
    """
    for key, wanted, library in (
        ("sinks.tensorboard", config.sinks.tensorboard, "tensorboard"),
        ("sinks.wandb", config.sinks.wandb != "off", "wandb"),
        ("sinks.prometheus", bool(config.sinks.prometheus), "prometheus_client"),
    ):
        if wanted and find_spec(library) is None:
            extra = key.removeprefix("sinks.")
            raise ConfigError(
                f"{key} needs the package '{library}', which is not installed. Install it with "
                f"pip install 'fedsplit[{extra}]', or leave {key} at its default. (`flwr run` "
                "makes an environment of [project].dependencies in pyproject.toml: add it there.)"
            )
    address = config.sinks.prometheus
    if address and not is_loopback(address) and not config.channel.certificate:
        raise ConfigError(
            f"sinks.prometheus = '{address}' is off loopback, and nothing encrypts it. Set "
            "channel.certificate and channel.private-key, which it uses too; or serve it on "
            "127.0.0.1."
        )


class Sinks:
    """The sinks of one run. The run goes on without a sink that breaks, and logs a warning.

    Parameters
    ----------
    config : Config
        The run's configuration, which `check_sinks` has accepted.
    run_dir : Path
        The run directory. Sinks write their local files into it.
    rounds_done : int
        The rounds after which the run continues; what sinks got of later ones does not count.

    Raises
    ------
    ConfigError
        If a sink cannot be opened.
    """

    def __init__(self, config: Config, run_dir: Path, rounds_done: int = 0) -> None:
        self._sinks = dict(_opened(config, run_dir, rounds_done))

    def send_round(self, row: Row) -> None:
        """Send the row of a round to all sinks."""
        self._tell("send_round", row)

    def send_summary(self, summary: Row) -> None:
        """Send the summary to all sinks."""
        self._tell("send_summary", summary)

    def close(self) -> None:
        """Close all sinks, after the last row or summary."""
        self._tell("close")
        self._sinks = {}

    def _tell(self, method: str, *values: Row) -> None:
        for key, sink in list(self._sinks.items()):
            try:
                getattr(sink, method)(*values)
            except Exception as error:
                del self._sinks[key]
                _logger.warning(
                    "%s gets no more data of this run (%s: %s); rounds.jsonl has all of it.",
                    *(key, type(error).__name__, error),
                )


def _opened(config: Config, run_dir: Path, rounds_done: int) -> Iterator[tuple[str, Sink]]:
    if config.sinks.tensorboard:
        yield "sinks.tensorboard", TensorBoard(config, run_dir, rounds_done)
    if config.sinks.wandb != "off":
        yield "sinks.wandb", WeightsAndBiases(config, run_dir)
    if config.sinks.prometheus:
        from fedsplit.results.prometheus import Prometheus

        served = Prometheus(config)
        with suppress(OSError, ValueError):  # a damaged file is made anew, and costs the sums only
            for row in read_lines(RunPaths(run_dir).rounds_path)[:rounds_done]:
                served.send_round(row)
        yield "sinks.prometheus", served


class TensorBoard:
    """Scalars by round, in ``tensorboard/`` of the run directory."""

    def __init__(self, config: Config, run_dir: Path, rounds_done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        later = rounds_done + 1 if config.resume else None
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=later)
        rows = "\n".join(f"| {key} | {value} |" for key, value in config.to_flat().items())
        self._writer.add_text("config", f"| key | value |\n|---|---|\n{rows}")

    def send_round(self, row: Row) -> None:
        """Add a point to the curve of each number."""
        for key, value in _numbers(row).items():
            self._writer.add_scalar(key, value, row["round"])
        self._writer.flush()

    def send_summary(self, summary: Row) -> None:
        """Add the summary as a table."""
        rows = "\n".join(f"| {key} | {value} |" for key, value in summary.items())
        self._writer.add_text("summary", f"| key | value |\n|---|---|\n{rows}")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, with its local files in ``wandb/`` of the run directory."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        import wandb

        kept_id = run_dir / "wandb" / "run-id"
        try:
            kept_id.parent.mkdir(exist_ok=True)
            if not kept_id.is_file():
                kept_id.write_text(secrets.token_hex(8), encoding="utf-8")
            self._run = wandb.init(
                id=kept_id.read_text(encoding="utf-8"),
                resume="allow",
                project=config.sinks.wandb_project,
                name=run_dir.name,
                dir=run_dir,
                config=config.to_flat(),
                mode="offline" if config.sinks.wandb == "offline" else "online",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:
            raise ConfigError(
                f"sinks.wandb = '{config.sinks.wandb}' cannot be opened: {error}. Log in with "
                "`wandb login`, or use 'offline' and `wandb sync` later."
            ) from None
        self._exit_code = 1

    def send_round(self, row: Row) -> None:
        """Log the numbers of a round."""
        self._run.log(
            _numbers(row), step=row["round"], commit=True
        )  # else they would wait for the next round

    def send_summary(self, summary: Row) -> None:
        """Store the summary as the run's summary."""
        self._run.summary.update(dict(summary))
        self._exit_code = 0

    def close(self) -> None:
        """End the run: as failed, if there was no summary."""
        self._run.finish(exit_code=self._exit_code)


def _numbers(row: Row) -> dict[str, float]:
    """Return a row's numbers, named ``group/key``; of a list, such as failures, its length.

    The groups keep them apart from the summary, which has some of the same keys for the whole
    run. Declared metrics have a group of their own.
    """
    numbers = {key: as_number(value) for key, value in row.items()}
    return {
        f"{FIELDS[key].group if key in FIELDS else METRICS_GROUP}/{key}": value
        for key, value in numbers.items()
        if isinstance(value, int | float)
    }
