"""All configuration keys of a run, and how they are read.

Keys are kebab-case and sections flatten to dotted keys (``split.cut-layer``), because Flower's
run config takes scalars only. ``[tool.flwr.app.config]`` of ``pyproject.toml`` has the same
defaults, which a test checks. All errors are reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator

from fedsplit.config.data import DataConfig
from fedsplit.config.errors import describe
from fedsplit.config.extensions import CodecConfig, DefenceConfig
from fedsplit.config.keys import nest, pairs, read_toml, spelt
from fedsplit.config.model import LoraConfig, ModelConfig, SplitConfig
from fedsplit.config.network import ChannelConfig, NetworkConfig
from fedsplit.config.results import SinksConfig
from fedsplit.config.section import Section, Whole
from fedsplit.config.server import AggregationConfig, LossConfig, ServerConfig
from fedsplit.errors import ConfigError
from fedsplit.names import path_fault
from fedsplit.references import is_reference

DEFAULT_NUM_CLIENTS = 10
Scalar = str | int | float | bool

STRATEGY_NAMES = ("sequential", "sflv1", "sflv2", "sflv3", "parallel", "full", "centralized")
LastBatch = Literal["keep", "merge", "drop"]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]


def _as_path(text: str) -> str:
    if fault := path_fault(text):
        raise ValueError(fault)
    return text


class Config(Section):
    """The configuration of one run. Immutable; made by `Config.load` or `Config.from_flat`."""

    strategy: str = Field(
        "sflv1",
        description="training algorithm (docs/algorithms.md), or package.module:name of your own",
    )
    num_server_rounds: Whole = Field(3, ge=1, description="number of rounds")
    local_epochs: Whole = Field(
        1, ge=1, description="passes over a client's training images in a round"
    )
    batch_size: Whole = Field(32, ge=1, description="images in a training step")
    last_batch: LastBatch = Field(
        "keep",
        description="what happens to an epoch's last batch if it has fewer than batch-size images: "
        "it is kept, merged into the batch before it, or dropped",
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        "adam", description="optimizer of every part"
    )
    learning_rate: float = Field(
        0.001,
        gt=0.0,
        le=1e6,
        description="learning rate; server.learning-rate sets another one for the server part",
    )
    learning_rate_schedule: Literal["constant", "step", "cosine"] = Field(
        "constant", description="how the learning rate changes from round to round"
    )
    learning_rate_decay: float = Field(
        0.1, gt=0.0, le=1.0, description="step schedule: factor that multiplies the learning rate"
    )
    decay_rounds: Whole = Field(
        10, ge=1, description="step schedule: number of rounds between two multiplications"
    )
    warmup_rounds: Whole = Field(
        0,
        ge=0,
        description="number of rounds at the start in which the learning rate rises linearly",
    )
    layer_decay: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="each stage's learning rate is that of the stage after it times this; the head "
        "has the full one",
    )
    accumulate_batches: Whole = Field(
        1, ge=1, description="batches whose mean gradient makes one optimizer step, on both sides"
    )
    clip_norm: float = Field(
        0.0, ge=0.0, description="maximum gradient norm of each part; 0 disables clipping"
    )
    client_optimizer: Literal["fresh", "kept"] = Field(
        "fresh",
        description="fresh = a new client optimizer in each round; kept = one for the whole run",
    )
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="sgd: momentum")
    weight_decay: float = Field(0.0, ge=0.0, le=1e6, description="weight decay of every part")
    fraction_train: Fraction = Field(
        1.0, description="fraction of the clients that train in a round"
    )
    min_participants: Whole = Field(
        1,
        ge=1,
        description="fewest complete contributions of a round, and fewest sites of a deployment "
        "at its start; with fewer the run ends",
    )
    fraction_evaluate: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="fraction of the clients that evaluate in a round; 0 = no federated evaluation",
    )
    monitor: Literal["test-accuracy", "validation-accuracy", "validation-loss"] = Field(
        "test-accuracy",
        description="score whose best round is kept as best/, and for which patience waits; "
        "validation is the clients' own (fraction-evaluate)",
    )
    patience: Whole = Field(
        0, ge=0, description="rounds without a better score after which the run ends; 0 = none"
    )
    seed: Whole = Field(42, ge=0, description="seed of all randomness")
    device: str = Field(
        "cpu",
        min_length=1,
        description="torch device of every part; server.device and a SuperNode's own device "
        "come before it",
    )
    num_clients: Whole = Field(
        0,
        ge=0,
        description="number of clients; 0 = all SuperNodes, or 10 if fedsplit starts them",
    )
    max_concurrent_clients: Whole = Field(
        0,
        ge=0,
        description="maximum number of clients that train at the same time; 0 = one per core",
    )
    torch_threads: int = Field(
        1, ge=1, le=1024, description="number of torch threads for one client's computation"
    )
    connect_timeout: float = Field(
        20.0, gt=0.0, description="seconds to wait for SuperNodes to connect"
    )
    round_timeout: float = Field(
        3600.0, gt=0.0, description="seconds to wait for the clients' replies"
    )
    checkpoint_every: Whole = Field(
        1,
        ge=0,
        description="number of rounds between two checkpoints, from which a run that has ended "
        "early continues; 0 = none",
    )
    output_dir: str = Field(
        "runs", min_length=1, description="directory in which run directories are made"
    )
    run_name: str = Field(
        "", description="name of the run directory; empty = strategy, data set and time"
    )
    console: Literal["quiet", "normal", "verbose"] = Field(
        "normal",
        description="what a run shows: only warnings, a line for each round, or Flower's lines too",
    )
    resume: str = Field(
        "",
        description="run directory whose run continues; set by `fedsplit run --resume`, which "
        "reads the other keys from that directory",
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    split: SplitConfig = SplitConfig()
    lora: LoraConfig = LoraConfig()
    loss: LossConfig = LossConfig()
    server: ServerConfig = ServerConfig()
    aggregation: AggregationConfig = AggregationConfig()
    channel: ChannelConfig = ChannelConfig()
    codec: CodecConfig = CodecConfig()
    defence: DefenceConfig = DefenceConfig()
    network: NetworkConfig = NetworkConfig()
    sinks: SinksConfig = SinksConfig()

    @field_validator("strategy")
    @classmethod
    def _a_strategy(cls, name: str) -> str:
        if name not in STRATEGY_NAMES and not is_reference(name):
            close = difflib.get_close_matches(name, STRATEGY_NAMES, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"must be one of {', '.join(STRATEGY_NAMES)}, or name your own as "
                f"package.module:name{hint}"
            )
        return name

    @field_validator("run_name")
    @classmethod
    def _one_path_part(cls, name: str) -> str:
        if name in (".", "..") or "/" in name or "\\" in name:
            raise ValueError("must be a plain directory name; use output-dir for the path")
        return _as_path(name)

    @field_validator("output_dir", "resume")
    @classmethod
    def _a_path(cls, path: str) -> str:
        return _as_path(path)

    @classmethod
    def from_flat(cls, values: Mapping[str, object], *, source: str = "the configuration") -> Self:
        """Check a mapping of dotted or nested keys.

        Parameters
        ----------
        values : Mapping[str, object]
            Dotted keys (as Flower's run config), nested tables (as TOML), or a mix.
        source : str
            Where the values come from, for the message.

        Raises
        ------
        ConfigError
            With every unknown key (and the nearest valid one) and every wrong value.
        """
        return cls._checked(spelt(values, _valid_keys(), source), {}, source)

    @classmethod
    def _checked(
        cls, values: Mapping[str, object], overrides: Mapping[str, object], source: str
    ) -> Self:
        try:
            return cls.model_validate(nest({**values, **overrides}, _SECTIONS))
        except ValidationError as error:
            raise ConfigError(describe(error, source, _valid_keys(), overrides)) from None

    @classmethod
    def load(
        cls,
        config: Config | Mapping[str, object] | str | Path,
        overrides: Mapping[str, object] | None = None,
        *,
        base: Config | None = None,
    ) -> Config:
        """Return the checked config of a TOML file, a mapping or a `Config`, with overrides.

        Override keys are dotted (``split.cut-layer``) or underscored (``split_cut_layer``). Keys
        that `config` does not have are those of `base`, by default fedsplit's defaults.

        Raises
        ------
        ConfigError
            If the file cannot be read or parsed, or any key or value is wrong.
        """
        source = "the configuration"
        values: Mapping[str, object]
        if isinstance(config, Config):
            values = config.to_flat()
        elif isinstance(config, Mapping):
            values = config
        else:
            source = str(config)
            values = read_toml(Path(config))
        # An override may be spelt differently from the key that it replaces.
        changes = spelt(overrides or {}, _valid_keys(), f"The overrides of {source}")
        own = spelt(values, _valid_keys(), source)
        return cls._checked({**({} if base is None else base.to_flat()), **own}, changes, source)

    @property
    def server_device(self) -> str:
        """The torch device of the server part."""
        return self.server.device or self.device

    def changed(self) -> dict[str, Scalar]:
        """Return the keys whose value is not fedsplit's default, dotted."""
        defaults = Config().to_flat()
        return {key: value for key, value in self.to_flat().items() if value != defaults[key]}

    def to_flat(self) -> dict[str, Scalar]:
        """Return every key, dotted and kebab-case, with its value."""
        flat = pairs(self.model_dump(by_alias=True))
        return {key: value for key, value in flat if isinstance(value, Scalar)}


_SECTIONS = [
    name for name, field in Config.model_fields.items() if isinstance(field.default, Section)
]


@cache
def _valid_keys() -> tuple[str, ...]:
    return tuple(Config().to_flat())


def with_clients(config: Config) -> Config:
    """Return a config with a number of clients, for an engine that starts the clients itself."""
    return Config.load(config, {"num-clients": config.num_clients or DEFAULT_NUM_CLIENTS})
