"""One file per algorithm; a new variant is a new file and a line here."""

from strategies.base import FederatedStrategy
from strategies.centralized import Centralized
from strategies.full import Full
from strategies.parallel import Parallel
from strategies.sequential import Sequential
from strategies.sflv1 import SFLV1
from strategies.sflv2 import SFLV2
from strategies.sflv3 import SFLV3

STRATEGIES: dict[str, type[FederatedStrategy]] = {
    "sequential": Sequential,
    "sflv1": SFLV1,
    "sflv2": SFLV2,
    "sflv3": SFLV3,
    "parallel": Parallel,
    "full": Full,
    "centralized": Centralized,
}
"""The value of the config key `strategy` -> its class."""
