"""Client processes that are killed or never connect: the round ends and is correct for the rest.

Over gRPC, by SIGKILL, at every update rule. Failures of participants in
threads are in test_shared.py.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import RoundReport, SplitServer
from fedsplit.split.session import ServerSession
from fedsplit.split.shared import SharedServerPart
from tests.split.chains import SHAPE, Points, serving_chain
from tests.split.participants import CONNECTED, CONNECTING, FINISHED, FINISHING, Participant
from tests.split.reference import examples_in, order_in, rule_in
from tests.split.toys import (
    Serve,
    Weights,
    assert_close,
    batches_of,
    config_of,
    files_of,
    wait_until,
    weights_of,
)
from tests.split.whole import Whole

VICTIM = 1
SIZES = {0: (8, 3, 8), VICTIM: (8, 8, 8), 2: (5, 8)}
DATA = {k: batches_of(k, *sizes, shape=SHAPE) for k, sizes in SIZES.items()}
GOOD = [0, 2]
RULES: list[type[UpdateRule]] = [PerParticipantCopies, InTurn, Concatenated]
VANILLA: Points = (1,)
U_SHAPED: Points = (1, 3)
JOIN_SECONDS = 4.0
BOUND_SECONDS = 25.0  # timeouts are 60 seconds, except where one never connects


class Death(NamedTuple):
    """Where the victim is killed, and how many of its steps a shared server part has taken."""

    points: Points
    place: str
    steps: int
    sent: bool = False
    """Whether it then sends a batch, and dies while it waits for the answer."""


DEATHS = {
    "it never connects": Death(VANILLA, CONNECTING, 0),
    "before its first step": Death(VANILLA, CONNECTED, 0),
    "while it waits for an answer": Death(VANILLA, "batch 1", 2, sent=True),
    "between two steps": Death(VANILLA, "batch 2", 2),
    "before it has said that it is done": Death(VANILLA, FINISHING, 3),
    "before it has replied to Flower": Death(VANILLA, FINISHED, 3),
    "between the calls of the first step": Death(U_SHAPED, "output 0", 0),
    "between the calls of a later step": Death(U_SHAPED, "output 1", 1),
}


def victims_session(server: SplitServer) -> ServerSession:
    return server.sessions[VICTIM]


def has_arrived(server: SplitServer, death: Death) -> bool:
    """Return whether the server has received what the victim sent last."""
    rule, session = rule_in(server), victims_session(server)
    waits = isinstance(rule, SharedServerPart) and VICTIM in rule.delivered
    return session.opened and (not death.sent or waits or session.num_steps > 1)


@contextmanager
def participants(
    server: SplitServer, address: str, death: Death
) -> Iterator[dict[int, Participant]]:
    """Start a process for each participant, and bring the victim to its place of death."""
    tokens = server.open_round(Purpose.TRAIN, list(SIZES))
    # The others stop, too, if the victim has to die before their next step.
    early = {CONNECTING: CONNECTED}.get(death.place, death.place if death.sent else None)
    with ExitStack() as stack:
        everyone = {
            k: stack.enter_context(
                Participant(
                    k,
                    address,
                    tokens[k],
                    death.points,
                    sizes=SIZES[k],
                    stop=death.place if k == VICTIM else early,
                )
            )
            for k in SIZES
        }
        for each in everyone.values():
            each.wait_for_stop()
        yield everyone


def finish_round(
    server: SplitServer, everyone: dict[int, Participant], death: Death
) -> tuple[dict[int, Weights], RoundReport]:
    """Kill the victim, let the others finish, and close the round with those who reply."""
    if death.sent:
        everyone[VICTIM].go_on()
    if death.place != CONNECTING:
        wait_until(lambda: has_arrived(server, death))
        assert everyone[VICTIM].kill() == -signal.SIGKILL
    started = time.monotonic()
    for k in GOOD:
        everyone[k].go_on()
    held = {k: everyone[k].held(BOUND_SECONDS) for k in GOOD}
    report = server.report()
    server.close_round({k: report.num_examples[k] for k in held})
    assert time.monotonic() - started < BOUND_SECONDS
    return held, report


def replay(server: SplitServer, death: Death) -> Whole:
    """Compute the expected round, with the victim's steps that stay."""
    whole, rule = Whole(death.points, config_of()), rule_in(server)
    if isinstance(rule, PerParticipantCopies):
        whole.fedavg({k: DATA[k] for k in GOOD})
        return whole
    data = {**DATA, VICTIM: DATA[VICTIM][: death.steps]}
    if isinstance(rule, InTurn):
        taken = [
            [k for k in step if k != VICTIM or number < death.steps]
            for number, step in enumerate(order_in(server))
        ]
        delivering = [[k for k in data if number < len(data[k])] for number in range(3)]
        assert [sorted(step) for step in taken] == delivering
        whole.in_turn(data, taken, accepted=GOOD)
    else:
        whole.concatenated(data, accepted=GOOD)
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
@pytest.mark.parametrize("kind", RULES)
def test_the_round_ends_and_is_correct_for_the_rest(
    serve_grpc: Serve, kind: type[UpdateRule], death: Death
) -> None:
    """Break it: leave the last `session.close` out of `GrpcChannel._serve`."""
    never = death.place == CONNECTING
    server = serving_chain(
        kind, death.points, config_of(channel_join_timeout=JOIN_SECONDS) if never else None
    )
    address = serve_grpc(server)
    with participants(server, address, death) as everyone:
        held, report = finish_round(server, everyone, death)
    counts = {k: examples_in(DATA[k]) for k in (SIZES if death.place == FINISHED else GOOD)}
    assert report.num_examples == counts
    assert list(report.failures) == [k for k in SIZES if k not in counts]
    if never:
        assert "it never opened its stream" in report.failures[VICTIM]
    whole = replay(server, death)
    assert_close(weights_of(server.server_part), whole.shared, atol=1e-9)
    for k in GOOD:
        assert_close({n: held[k][n] for n in whole.own}, whole.held[k], atol=1e-9)
    if kind is PerParticipantCopies:
        assert files_of(server) == []
