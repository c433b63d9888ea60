"""How one side trains: its loss, its optimizer, its learning rates, clipping, and the seed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fedsplit.config import Config
from fedsplit.split.loss import Loss

_FACTOR = "layer_rate"
"""The key of an optimizer's group for the factor of its learning rate."""


@dataclass(frozen=True)
class Training:
    """What one side trains with. Clients and server have one each.

    Attributes
    ----------
    optimizer : {"sgd", "adam", "adamw"}
        Which optimizer.
    learning_rate : float
        Before the schedule.
    schedule : {"constant", "step", "cosine"}
        How the rate changes from round to round (see `rate`).
    decay : float
        The factor of ``step``.
    decay_rounds : int
        Number of rounds between two multiplications by `decay`.
    warmup_rounds : int
        Rounds in which the rate rises to its value.
    num_rounds : int
        Rounds of the run, for ``cosine``.
    momentum, weight_decay : float
        Of the optimizer; momentum for ``sgd`` only.
    clip_norm : float
        Maximum gradient norm of each part; 0 disables clipping.
    seed : int
        The run's seed, from which every random order derives.
    accumulate_batches : int
        Batches of an optimizer step (see `fedsplit.split.accumulation`).
    loss : Loss
        What training minimises.
    layer_rates : tuple[tuple[str, float], ...]
        Path of a module or weight -> the factor of its learning rate; that of others is 1.
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    schedule: Literal["constant", "step", "cosine"]
    decay: float
    decay_rounds: int
    warmup_rounds: int
    num_rounds: int
    momentum: float
    weight_decay: float
    clip_norm: float
    seed: int
    accumulate_batches: int = 1
    loss: Loss = field(default_factory=Loss)
    layer_rates: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of_clients(
        cls,
        config: Config,
        *,
        class_weights: Iterable[float] = (),
        layer_rates: Iterable[tuple[str, float]] = (),
    ) -> Training:
        """Return the settings of clients, and of a server that trains the whole model.

        Parameters
        ----------
        config : Config
            The run's configuration.
        class_weights, layer_rates
            As the attributes of `Loss` and of `Training`.
        """
        return cls(
            optimizer=config.optimizer,
            learning_rate=config.learning_rate,
            schedule=config.learning_rate_schedule,
            decay=config.learning_rate_decay,
            decay_rounds=config.decay_rounds,
            warmup_rounds=config.warmup_rounds,
            num_rounds=config.num_server_rounds,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            seed=config.seed,
            accumulate_batches=config.accumulate_batches,
            loss=Loss(config.loss.label_smoothing, tuple(class_weights)),
            layer_rates=tuple(layer_rates),
        )

    @classmethod
    def of_server(
        cls,
        config: Config,
        *,
        class_weights: Iterable[float] = (),
        layer_rates: Iterable[tuple[str, float]] = (),
    ) -> Training:
        """Return the settings of the server part: those of clients, with the keys ``server.*``."""
        training = cls.of_clients(config, class_weights=class_weights, layer_rates=layer_rates)
        server = config.server
        if server.learning_rate:
            training = replace(training, learning_rate=server.learning_rate)
        if server.learning_rate_schedule != "same":
            training = replace(training, schedule=server.learning_rate_schedule)
        if server.clip_norm >= 0.0:
            training = replace(training, clip_norm=server.clip_norm)
        return training

    def rate(self, server_round: int) -> float:
        """Return the learning rate of a round.

        ``constant`` keeps `learning_rate`; ``step`` multiplies it by `decay` after every
        `decay_rounds` rounds; ``cosine`` lowers it to 0 after the last round along half a cosine
        (Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, without restarts). During the first
        `warmup_rounds` rounds it rises linearly to that value.

        Parameters
        ----------
        server_round : int
            From 1.
        """
        past = server_round - 1
        factor = 1.0
        if self.schedule == "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * past / self.num_rounds))
        elif self.schedule == "step":
            factor = self.decay ** (past // self.decay_rounds)
        if server_round <= self.warmup_rounds:
            factor *= server_round / (self.warmup_rounds + 1)
        return self.learning_rate * factor

    def make_optimizer(
        self, weights: Iterable[tuple[str, nn.Parameter]], server_round: int = 1
    ) -> Optimizer:
        """Return an optimizer of the weights that train, with the learning rates of a round.

        An optimizer that is used in several rounds gets each round's rates from `set_rate`.

        Parameters
        ----------
        weights : Iterable[tuple[str, nn.Parameter]]
            As from `nn.Module.named_parameters`, with the names of the whole model.
        server_round : int
            From 1.
        """
        by_factor: dict[float, list[nn.Parameter]] = {}
        for name, weight in weights:
            if weight.requires_grad:
                by_factor.setdefault(self._factor(name), []).append(weight)
        # A group, because there may be no weight in it: torch refuses an empty list.
        by_factor = by_factor or {1.0: []}
        groups = [{"params": found, _FACTOR: factor} for factor, found in by_factor.items()]
        rate = self.rate(server_round)
        optimizer: Optimizer
        if self.optimizer == "sgd":
            optimizer = SGD(groups, rate, self.momentum, weight_decay=self.weight_decay)
        else:
            adam = Adam if self.optimizer == "adam" else AdamW
            optimizer = adam(groups, rate, weight_decay=self.weight_decay)
        self.set_rate(optimizer, server_round)
        return optimizer

    def _factor(self, name: str) -> float:
        """Return the factor of a weight's learning rate."""
        for path, factor in self.layer_rates:
            if name == path or name.startswith(f"{path}."):
                return factor
        return 1.0

    def set_rate(self, optimizer: Optimizer, server_round: int) -> None:
        """Set the learning rate of a round; the optimizer's state is unchanged."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate(server_round) * group.get(_FACTOR, 1.0)

    def update(self, optimizer: Optimizer) -> None:
        """Take an optimizer's step, after scaling all its gradients down to `clip_norm` together.

        Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.
        """
        if self.clip_norm:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.clip_norm)
        optimizer.step()
