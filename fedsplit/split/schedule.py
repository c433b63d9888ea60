"""The learning rate of each round."""

from __future__ import annotations

import math

from fedsplit.config import Config


def learning_rate(config: Config, server_round: int) -> float:
    """Return the learning rate of a round, the same for every client and for the server.

    ``constant`` keeps `learning-rate`; ``step`` multiplies it by `learning-rate-decay` after every
    `decay-rounds` rounds; ``cosine`` goes down to 0 after the last round along half a cosine
    (Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, without restarts). During the first
    `warmup-rounds` rounds it rises linearly to that.

    Parameters
    ----------
    config : Config
        The run's configuration.
    server_round : int
        From 1.
    """
    past = server_round - 1
    factor = 1.0
    if config.learning_rate_schedule == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * past / config.num_server_rounds))
    elif config.learning_rate_schedule == "step":
        factor = config.learning_rate_decay ** (past // config.decay_rounds)
    if server_round <= config.warmup_rounds:
        factor *= server_round / (config.warmup_rounds + 1)
    return config.learning_rate * factor
