"""How many clients take part at the same time, and what does not go with their number."""

from __future__ import annotations

from fedsplit.algorithms import strategy_class
from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.results.best import check_monitor
from fedsplit.threads import available_cores
from strategies.clients import sample_size

_FEWEST_STREAMS = 1024


def check_participants(config: Config, num_clients: int) -> None:
    """Refuse to require more contributions than a round has participants.

    Raises
    ------
    ConfigError
        Names both numbers.
    """
    participants = sample_size(config.fraction_train, num_clients)
    if config.min_participants > participants:
        raise ConfigError(
            f"min-participants = {config.min_participants}, but a round has {participants} "
            f"(fraction-train = {config.fraction_train:g} of {num_clients} clients). Lower it, or "
            "raise fraction-train."
        )


def clients_at_once(config: Config) -> int:
    """Return how many clients an engine must run at the same time.

    If they wait for each other in every step, this is the number of participants of a round.
    Otherwise it is `max-concurrent-clients`, or one for each core.
    """
    if strategy_class(config.strategy).synchronous:
        return sample_size(config.fraction_train, config.num_clients)
    return min(config.num_clients, config.max_concurrent_clients or available_cores())


def max_streams(config: Config) -> int:
    """Return how many streams the split server accepts at the same time.

    Twice the participants of a round, because a stream that has broken can linger, and at least
    1,024, which serve any number of clients that do not all connect at once.
    """
    fraction = max(config.fraction_train, config.fraction_evaluate)
    return max(_FEWEST_STREAMS, 2 * sample_size(fraction, config.num_clients))


def check_clients(config: Config, num_clients: int, num_validation: int) -> None:
    """Refuse what does not go with the clients that have been found.

    Raises
    ------
    ConfigError
        As `check_streams`, `check_participants` and `check_monitor`.
    """
    check_streams(config, num_clients)
    check_participants(config, num_clients)
    check_monitor(config, num_validation)


def check_streams(config: Config, num_clients: int) -> None:
    """Refuse more participants than the split server has streams for.

    Raises
    ------
    ConfigError
        If ``num-clients`` was not given, and there are too many.
    """
    if max_streams(config) < max_streams(Config.load(config, {"num-clients": num_clients})):
        raise ConfigError(
            f"{num_clients} SuperNodes are connected, and the split server has made room for "
            f"{max_streams(config)} streams, because num-clients = {config.num_clients}. Set "
            f"num-clients = {num_clients}."
        )
