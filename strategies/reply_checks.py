"""Which replies of a round count, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message

from fedsplit.split.client_rules import ClientRule
from fedsplit.split.phases import Purpose
from fedsplit.split.server import RoundReport
from fedsplit.split.session import NEVER_OPENED
from strategies.answers import Asked
from strategies.context import RunContext
from strategies.kept import KeptByClients
from strategies.replies import NO_REPLY, log_failures, sort_replies
from strategies.seen import Seen
from strategies.update_norms import UpdateNorms

FaultOf = Callable[[Message, Seen], str | None]
"""Returns what is wrong with a client's reply, given what is known of its work."""
_LEFT_OUT_OF = {Purpose.TRAIN: "round", Purpose.EVALUATE: "the evaluation of round"}


@dataclass(frozen=True)
class ReplyChecks:
    """Checks the replies of a round, each by itself and all together.

    Attributes
    ----------
    run : RunContext
        Says what each client can do at most.
    rule : type[ClientRule]
        What clients do with their batches.
    kept : KeptByClients
        Takes the copies of what clients keep out of the replies.
    norms : UpdateNorms
        How far weights move in a round of training.
    """

    run: RunContext
    rule: type[ClientRule]
    kept: KeptByClients
    norms: UpdateNorms

    def check(
        self,
        replies: Iterable[Message],
        asked: Asked,
        report: RoundReport | None,
        fault_of: FaultOf,
        began_with: Callable[[int], ArrayRecord],
        what: tuple[Purpose, int],
    ) -> tuple[dict[int, Message], dict[int, str]]:
        """Return the replies that count, and say why each other participant is left out.

        Parameters
        ----------
        replies : Iterable[Message]
            In order of arrival.
        asked : Asked
            Who was sent a message.
        report : RoundReport | None
            What the split server saw, if there is one.
        fault_of : FaultOf
            Checks a reply that is not an error.
        began_with : Callable[[int], ArrayRecord]
            Returns the weights from which a client has trained.
        what : tuple[Purpose, int]
            What the round was for, and its number.
        """
        purpose, server_round = what
        good, failures = sort_replies(replies, asked.participants)
        self.kept.take(good)
        if report is not None:
            self.kept.resent_bytes += report.traffic.repeated_bytes
        name_true_reasons(failures, report)
        run, rule = self.run, self.rule
        work = run.clients.work(purpose, asked.participants, run.config, rule)
        seen = {k: Seen.of(k, report, work[k], rule, purpose) for k in asked.participants}
        reject(good, failures, report, seen, fault_of)
        if purpose is Purpose.TRAIN:
            for client, fault in self.norms.faults(good, began_with).items():
                failures[client] = fault
                del good[client]
        self.kept.accept(good, failures)
        log_failures(failures, f"{_LEFT_OUT_OF[purpose]} {server_round}")
        return good, failures


def name_true_reasons(failures: dict[int, str], report: RoundReport | None) -> None:
    """Replace the reasons of clients without a reply by what the split server saw of them."""
    for client, reason in failures.items():
        seen = None if report is None else report.failures.get(client)
        if reason == NO_REPLY and seen is not None and not seen.startswith(NEVER_OPENED):
            failures[client] = f"no reply: {seen}"


def reject(
    good: dict[int, Message],
    failures: dict[int, str],
    report: RoundReport | None,
    seen: Mapping[int, Seen],
    fault_of: FaultOf,
) -> None:
    """Move every faulty reply from the good ones to the failures."""
    for client, reply in list(good.items()):
        fault = fault_of(reply, seen[client])
        if fault is not None:
            failures[client] = report.failures.get(client, fault) if report else fault
            del good[client]
