"""One file per algorithm; a new variant is a new file and a line here."""

from strategies.base import FederatedStrategy
from strategies.full import Full
from strategies.sflv1 import SFLV1

STRATEGIES: dict[str, type[FederatedStrategy]] = {"full": Full, "sflv1": SFLV1}
"""The value of the config key `strategy` -> its class."""
