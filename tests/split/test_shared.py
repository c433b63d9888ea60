"""Participants that die, fall silent or never come; the rest get the right server part."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedsplit.errors import ChannelError
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.in_turn import InTurn
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import Progress, RoundReport, SplitServer, silent
from fedsplit.split.shared import SharedServerPart
from fedsplit.split.steps import score
from tests.split.reference import (
    Central,
    Data,
    at_once,
    order_in,
    rule_in,
    serving,
    train_round,
)
from tests.split.toys import (
    CUT,
    Client,
    Serve,
    Weights,
    assert_close,
    batches_of,
    bottom_of,
    break_off,
    config_of,
    optimizer_of,
    server_part_of,
    settings_of,
    wait_until,
    weights_of,
)
from tests.split.ushaped import UClient, top_of, trunk_of, u_serving

BAD = 1
DATA = {k: batches_of(k, *sizes) for k, sizes in {0: (8, 3, 8), BAD: (8, 8, 8), 2: (5, 8)}.items()}
GOOD = [0, 2]
RULES: list[type[UpdateRule]] = [InTurn, Concatenated]


@pytest.mark.parametrize("rule", RULES)
def test_all_steps_are_computed_in_one_thread(serve: Serve, rule: type[UpdateRule]) -> None:
    """Break it: compute in the participant's thread; every one keeps the memory of a step."""
    server, computed_in = serving(rule), set()
    server.server_part.register_forward_hook(lambda *_: computed_in.add(threading.get_ident()))
    train_round(server, serve(server), DATA)
    assert len(computed_in) == 1


def when_two_are_done(happened: threading.Event) -> Callable[[int, int, Purpose], None]:
    def tell(done: int, total: int, purpose: Purpose) -> None:
        if done == 2:
            happened.set()

    return tell


def train_with_a_bad_one(
    server: SplitServer,
    address: str,
    steps: int,
    then: Callable[[Client], None],
    progress: Progress = silent,
) -> tuple[dict[int, Weights], RoundReport]:
    """Train all; BAD takes `steps` steps and then calls `then`."""
    tokens = server.open_round(Purpose.TRAIN, list(DATA), progress=progress)

    def work(k: int) -> Weights:
        client = Client(address, tokens[k])
        if k in GOOD:
            return client.train(DATA[k])
        with client.session:
            for batch in DATA[k][:steps]:
                client.step(batch)
            then(client)
        return weights_of(client.bottom)

    trained = at_once(work, DATA)
    report = server.report()
    assert report.num_examples == {0: 19, 2: 13}
    assert list(report.failures) == [BAD]
    server.close_round(report.num_examples)
    return trained, report


def replayed(server: SplitServer, steps: int) -> tuple[Weights, dict[int, Weights]]:
    """Return the expected server part and bottoms if BAD has taken `steps` steps."""
    central, data = Central(config_of()), {**DATA, BAD: DATA[BAD][:steps]}
    data = {k: batches for k, batches in data.items() if batches}
    if isinstance(rule_in(server), InTurn):
        delivering = [[k for k in data if step < len(data[k])] for step in range(3)]
        assert [sorted(step) for step in order_in(server)] == delivering
        trained = central.in_turn(data, order_in(server), accepted=GOOD)
    else:
        trained = central.concatenated(data, accepted=GOOD)
    return weights_of(central.server_part), trained


@pytest.mark.parametrize("way", ["leave", "cut"])
@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("kind", RULES)
def test_a_participant_that_dies_at_any_step(
    serve: Serve, kind: type[UpdateRule], steps: int, way: str
) -> None:
    """Break it: do not leave the lockstep in `SharedServerPart.drop`.

    Its steps stay. After the last of them it has done all its work but not finished.
    """
    threads = set(threading.enumerate())
    server = serving(kind)
    address, started = serve(server), time.monotonic()

    def die(client: Client) -> None:
        # A stream that ends before the server has seen it is one that was never opened.
        wait_until(lambda: server.sessions[BAD].opened)
        if way == "cut":
            break_off(client.stream)

    trained, report = train_with_a_bad_one(server, address, steps, die)
    assert time.monotonic() - started < 5  # timeouts are 60 seconds
    # The round may be over before the server has seen the stream end.
    ends = ("before it had finished", "ended early", "it had not finished when the round ended")
    assert any(end in report.failures[BAD] for end in ends)
    server_part, bottoms = replayed(server, steps)
    assert_close(weights_of(server.server_part), server_part)
    for k in GOOD:
        assert_close(trained[k], bottoms[k])
    # The channel's own and the rule's, until they are closed.
    ours = ("fedsplit-stream", "Thread-", "fedsplit-server-part")
    wait_until(
        lambda: all(t.name.startswith(ours) for t in threading.enumerate() if t not in threads)
    )


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("kind", RULES)
def test_a_silent_participant_is_given_up_and_told_why(
    serve: Serve, kind: type[UpdateRule], steps: int
) -> None:
    """Break it: pass `give_up` to neither `Lockstep` nor `Turns`; its session then stays open."""
    key = "channel.step-timeout" if steps else "channel.join-timeout"
    config = config_of(
        channel_join_timeout=60.0 if steps else 0.2, channel_step_timeout=0.2 if steps else 60.0
    )
    server, refused = serving(kind, config), list[str]()
    address, started = serve(server), time.monotonic()
    others_done = threading.Event()

    def fall_silent(client: Client) -> None:
        assert others_done.wait(10)
        with pytest.raises(ChannelError) as error:
            client.step(DATA[BAD][steps])
        refused.append(str(error.value))

    trained, report = train_with_a_bad_one(
        server, address, steps, fall_silent, when_two_are_done(others_done)
    )
    assert time.monotonic() - started < 5
    assert f"{key} = 0.2 seconds" in report.failures[BAD]
    assert len(refused) == 1
    server_part, bottoms = replayed(server, steps)
    assert_close(weights_of(server.server_part), server_part)
    for k in GOOD:
        assert_close(trained[k], bottoms[k])


@pytest.mark.parametrize("kind", RULES)
def test_an_absent_participant_is_waited_for_only_until_the_timeout(
    serve: Serve, kind: type[UpdateRule]
) -> None:
    server = serving(kind, config_of(channel_join_timeout=0.2))
    address = serve(server)
    tokens = server.open_round(Purpose.TRAIN, list(DATA))
    at_once(lambda k: Client(address, tokens[k]).train(DATA[k]), GOOD)
    with pytest.raises(ChannelError, match=r"its round is over"):  # it comes too late
        Client(address, tokens[BAD]).train(DATA[BAD])
    report = server.report()
    assert report.num_examples == {0: 19, 2: 13}
    assert report.failures == {
        BAD: "it never opened its stream: the others have waited for its first step for "
        "channel.join-timeout = 0.2 seconds"
    }
    assert_close(weights_of(server.server_part), replayed(server, 0)[0])


@pytest.mark.parametrize("kind", RULES)
def test_the_end_of_a_round_wakes_everyone_who_waits(serve: Serve, kind: type[UpdateRule]) -> None:
    """Break it: leave `interrupt` out of `SplitServer.report`; then it waits for the timeout."""
    server = serving(kind)
    address, before = serve(server), weights_of(server.server_part)
    tokens = server.open_round(Purpose.TRAIN, list(DATA))
    rule = rule_in(server)
    assert isinstance(rule, SharedServerPart)
    refused: list[int] = []

    def hope(k: int) -> None:
        with pytest.raises(ChannelError):
            Client(address, tokens[k]).train(DATA[k])
        refused.append(k)

    waiting = [threading.Thread(target=hope, args=(k,), daemon=True) for k in GOOD]
    for thread in waiting:
        thread.start()
    wait_until(lambda: rule.delivered == set(GOOD))
    started = time.monotonic()
    report = server.report()
    for thread in waiting:
        thread.join(5)
    assert time.monotonic() - started < 5
    assert sorted(refused) == GOOD
    assert report.num_examples == {}
    assert report.failures[BAD] == "it never opened its stream"
    assert_close(weights_of(server.server_part), before, atol=0)


class _Slow(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.part, self._seconds = server_part_of(), seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self._seconds)
        logits: Tensor = self.part(x)
        return logits


@pytest.mark.parametrize("kind", RULES)
def test_nobody_is_late_while_the_server_computes(
    serve_direct: Serve, kind: type[UpdateRule]
) -> None:
    """Break it: leave `serve` out of `InTurn`.

    A step of four turns, or of one computation, takes longer than the timeout. The first to finish
    waits for the others, which could not have been faster.
    """
    seconds = 0.08 if kind is InTurn else 0.3
    rule = kind(_Slow(seconds), settings_of(config_of(channel_step_timeout=0.2)))
    server = SplitServer(rule=rule, wire=CUT)
    address = serve_direct(server)
    tokens = server.open_round(Purpose.TRAIN, range(4))
    data: Data = {k: batches_of(k, 4, 4, 4) for k in range(4)}
    at_once(lambda k: Client(address, tokens[k]).train(data[k]), range(4))
    assert server.report().failures == {}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_u_shaped_participant_that_falls_silent_in_its_turn(serve: Serve, place: int) -> None:
    """Break it: let nobody watch the last holder (`answer` left out of `InTurn.forward`).

    Wherever its turn comes, the others continue. Its gradient never arrives, so the step is
    computed as if its batch did not exist.
    """
    config = config_of(channel_step_timeout=0.2)
    server = u_serving(InTurn, config)
    address = serve(server)
    others_done, fallen = threading.Event(), list[int]()
    tokens = server.open_round(Purpose.TRAIN, [0, 1, 2], progress=when_two_are_done(others_done))
    data = {k: batches_of(k, 8, 3 + k) for k in range(3)}

    def work(k: int) -> None:
        client = UClient(address, tokens[k])
        with client.session:
            for batch in data[k]:
                client.optimizer.zero_grad()
                loss = client.forward(batch)
                if not fallen and order_in(server)[0].index(k) == place:
                    fallen.append(k)
                    assert others_done.wait(10)
                    with pytest.raises(ChannelError):
                        torch.autograd.backward(loss)
                    return
                torch.autograd.backward(loss)
                client.optimizer.step()
            client.session.finish()

    at_once(work, range(3))
    report = server.report()
    assert sorted(report.num_examples) == [k for k in range(3) if k not in fallen]
    assert "channel.step-timeout = 0.2 seconds" in report.failures[fallen[0]]
    trunk = trunk_of()
    optimizer = optimizer_of(trunk.parameters(), config)
    ends = {k: nn.ModuleList([bottom_of(), top_of()]) for k in range(3) if k not in fallen}
    own = {k: optimizer_of(ends[k].parameters(), config) for k in ends}
    for step, order in enumerate(order_in(server)):
        for k in order:
            if k in fallen:
                continue
            images, labels = data[k][step]
            optimizer.zero_grad()
            own[k].zero_grad()
            bottom, top = ends[k]
            torch.autograd.backward(score(top(trunk(bottom(images))), labels).loss)
            optimizer.step()
            own[k].step()
    assert_close(weights_of(server.server_part), weights_of(trunk))


def test_a_round_after_a_failure_is_normal(serve: Serve) -> None:
    server = serving(InTurn)
    address = serve(server)
    train_with_a_bad_one(server, address, 1, lambda client: None)
    before = weights_of(server.server_part)
    tokens = server.open_round(Purpose.TRAIN, list(DATA), 2)
    at_once(lambda k: Client(address, tokens[k]).train(DATA[k]), DATA)
    assert sorted(server.report().num_examples) == [0, BAD, 2]
    assert [sorted(step) for step in order_in(server)] == [[0, 1, 2], [0, 1, 2], [0, 1]]
    assert any(not torch.equal(before[n], t) for n, t in weights_of(server.server_part).items())
