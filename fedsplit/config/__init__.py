"""Every configuration key: its type, default, bounds and meaning."""

from fedsplit.config.data import DataConfig
from fedsplit.config.keys import read_toml
from fedsplit.config.network import ChannelConfig, NetworkConfig, Profile
from fedsplit.config.node import NodeConfig
from fedsplit.config.run import (
    DEFAULT_NUM_CLIENTS,
    STRATEGY_NAMES,
    Config,
    LastBatch,
    Scalar,
    with_clients,
)
from fedsplit.config.server import AggregationConfig
from fedsplit.config.toml import config_toml, flwr_command

__all__ = [
    "DEFAULT_NUM_CLIENTS",
    "STRATEGY_NAMES",
    "AggregationConfig",
    "ChannelConfig",
    "Config",
    "DataConfig",
    "LastBatch",
    "NetworkConfig",
    "NodeConfig",
    "Profile",
    "Scalar",
    "config_toml",
    "flwr_command",
    "read_toml",
    "with_clients",
]
