"""Every configuration key: its type, default, bounds and meaning."""

from fedsplit.config.data import DataConfig
from fedsplit.config.keys import read_toml
from fedsplit.config.network import NetworkConfig, Profile
from fedsplit.config.run import (
    DEFAULT_NUM_CLIENTS,
    STRATEGY_NAMES,
    Config,
    LastBatch,
    Scalar,
    with_clients,
)
from fedsplit.config.server import AggregationConfig
from fedsplit.config.toml import config_toml

__all__ = [
    "DEFAULT_NUM_CLIENTS",
    "STRATEGY_NAMES",
    "AggregationConfig",
    "Config",
    "DataConfig",
    "LastBatch",
    "NetworkConfig",
    "Profile",
    "Scalar",
    "config_toml",
    "read_toml",
    "with_clients",
]
