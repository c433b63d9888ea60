"""Every configuration key: its type, default, bounds and meaning."""

from fedsplit.config.data import DataConfig
from fedsplit.config.network import NetworkConfig, Profile
from fedsplit.config.run import (
    DEFAULT_NUM_CLIENTS,
    Config,
    LastBatch,
    Scalar,
    Strategy,
    read_toml,
    with_clients,
)
from fedsplit.config.server import AggregationConfig

__all__ = [
    "DEFAULT_NUM_CLIENTS",
    "AggregationConfig",
    "Config",
    "DataConfig",
    "LastBatch",
    "NetworkConfig",
    "Profile",
    "Scalar",
    "Strategy",
    "read_toml",
    "with_clients",
]
