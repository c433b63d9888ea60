"""What is known of a client's work in a round, whatever its reply says."""

from __future__ import annotations

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
        The examples that the split server has counted.
    scores : LocalResult | None
        What the split server has computed, if the client computes the same: its reply must agree.
    """

    at_most: int
    at_least: int = 0
    scores: LocalResult | None = None

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
            return cls(work.examples)
        counted = report.num_examples.get(client, 0)
        if purpose is Purpose.TRAIN and not rule.sends_every_batch:
            return cls(work.examples, counted)
        return cls(counted, counted, report.scores.get(client) if rule.scores_on_server else None)

    def fault_of(self, told: Measurements) -> str | None:
        """Return what is wrong with what a client has measured, or None."""
        count, scores = told.num_examples, self.scores
        if count < self.at_least or (self.at_least and count > self.at_most == self.at_least):
            return f"it claims {count} examples where the split server saw {self.at_least}"
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
