"""What is known of a client's work in a round, whatever its reply says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from fedsplit.messages import Measurements
from fedsplit.split.client_rules import ClientRule
from fedsplit.split.phases import Purpose
from fedsplit.split.server import RoundReport
from fedsplit.split.totals import LocalResult, Work


@dataclass(frozen=True)
class Seen:
    """What bounds and checks the numbers in a client's reply.

    Attributes
    ----------
    at_most : int
        The examples that its images make.
    at_least : int
        Fewer than this cannot be true: the split server has received more.
    counted : int | None
        The examples that the split server has counted, if every batch reaches it: the reply must
        say the same number.
    scores : LocalResult | None
        What the split server has computed, if the client computes the same: its reply must agree.
    steps_per_batch : int
        How often it has sent each batch: `at_least` and `counted` count it once.
    """

    at_most: int
    at_least: int = 0
    counted: int | None = None
    scores: LocalResult | None = None
    steps_per_batch: int = 1

    @classmethod
    def of(
        cls,
        client: int,
        report: RoundReport | None,
        work: Work,
        rule: type[ClientRule],
        purpose: Purpose,
    ) -> Self:
        """Return what is known of a client.

        Parameters
        ----------
        client : int
            Its partition id.
        report : RoundReport | None
            What the split server saw of the round, if there is one.
        work : Work
            What the client's images make.
        rule : type[ClientRule]
            Says whether every batch of training reaches the split server, and whether its scores
            are the client's.
        purpose : Purpose
            What the round was for.
        """
        if report is None:
            return cls(work.trained)
        received, often = report.num_examples.get(client, 0), work.steps_per_batch
        at_least = math.ceil(received / often)
        if purpose is Purpose.TRAIN and not rule.sends_every_batch:
            return cls(work.trained, at_least)
        compares = rule.scores_on_server and often == 1
        scores = report.scores.get(client) if compares else None
        counted = received // often
        return cls(counted, at_least, counted, scores, often)  # the server has bounded it

    def fault_of(self, told: Measurements) -> str | None:
        """Return what is wrong with what a client has measured, or None."""
        count, scores = told.num_examples, self.scores
        if self.counted is not None and count != self.counted:
            often = self.steps_per_batch
            why = f" (its rule has steps_per_batch = {often})" if often > 1 else ""
            return f"it claims {count} examples where the split server saw {self.counted}{why}"
        if count < self.at_least:
            return (
                f"it claims {count} examples, but the split server received {self.at_least} or more"
            )
        if count > self.at_most:
            return f"it claims {count} examples, but it has {self.at_most} in a round"
        found = LocalResult(count, told.loss, told.accuracy)
        if scores is not None and count and not found.agrees_with(scores):
            return (
                f"it claims loss {told.loss:.6g} and accuracy {told.accuracy:.6g} where the split "
                f"server saw {scores.loss:.6g} and {scores.accuracy:.6g} (a client rule that "
                "reports another score sets scores_on_server = False)"
            )
        return None
