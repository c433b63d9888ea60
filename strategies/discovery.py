"""Find the clients of a run: every node is asked once who it is and what it holds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Timer

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsplit.config import Config
from fedsplit.errors import ConfigError, RunError, shorten
from fedsplit.messages import CONFIG, DESCRIBE, Description, Instructions
from fedsplit.names import some
from fedsplit.run_log import say, warn
from fedsplit.split.phases import Purpose
from fedsplit.split.server import SplitServer
from strategies.clients import Clients, sample_size
from strategies.replies import by_reason, reason_of

_QUIET_SECONDS = 2.0
"""After which a person is told what the run waits for."""


@dataclass
class _Answers:
    """What nodes have said.

    Attributes
    ----------
    valid : dict[int, Description]
        Node -> what it says about itself.
    faults : dict[int, str]
        Node -> why its answer does not count.
    clients : dict[int, int]
        Node -> the client that it says it is, of those with faults.
    """

    valid: dict[int, Description] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    clients: dict[int, int] = field(default_factory=dict)

    def refuse(self, node: int, reason: str) -> None:
        """Let the answer of a node not count."""
        if (answer := self.valid.pop(node, None)) is not None:
            self.clients[node] = answer.partition_id
        self.faults.setdefault(node, reason)


def discover(
    grid: Grid,
    config: Config,
    *,
    instructions: Instructions,
    rendezvous: SplitServer | None = None,
    may_be_left_out: bool = False,
) -> Clients:
    """Ask every connected node who it is and what it holds.

    A site that cannot answer, or cannot reach the split server, may be left out of the run, as
    one that fails in a round is left out of that round.

    Parameters
    ----------
    grid : Grid
        What asks clients.
    config : Config
        Says how many clients to wait for, and how long. An answer may take as long as a
        round: the first message waits until the engine has started its processes.
    instructions : Instructions
        What a client needs for its answer; the number of clients is filled in here.
    rendezvous : SplitServer | None
        Where as many clients as a round has must connect at the same time before the first
        round; None if clients need not be connected at once.
    may_be_left_out : bool
        Whether the run can go without some of its clients.

    Raises
    ------
    ConfigError
        If too few nodes connect, or too few can be connected to the split server at once.
    RunError
        If a client cannot take part, or has a partition id that another has or that is not
        from 0 to K-1, unless it may be left out and ``min-participants`` are there.
    """
    nodes = _wait_for_nodes(grid, config.num_clients or 1, config.connect_timeout)
    count = config.num_clients or len(nodes)
    tokens: Mapping[int, str] = {}
    if rendezvous is not None:
        at_once = sample_size(config.fraction_train, count)
        tokens = rendezvous.open_round(Purpose.RENDEZVOUS, nodes[:at_once])
    queries = []
    for node in nodes:
        told = instructions.model_copy(
            update={"num_clients": count, "channel_token": tokens.get(node, "")}
        )
        queries.append(Message(RecordDict({CONFIG: told.to_record()}), node, DESCRIBE))
    waiting = Timer(_QUIET_SECONDS, say, [f"Asking {count} clients what they hold ..."])
    waiting.start()
    try:
        replies = list(grid.send_and_receive(queries, timeout=config.round_timeout))
    finally:
        waiting.cancel()
    answers = _sort_answers(replies, instructions.num_labels)
    if rendezvous is not None:
        late = rendezvous.report().failures
        if not (may_be_left_out or answers.faults):
            _check_all_came(len(late), len(tokens), config)
        for node, reason in late.items():
            answers.refuse(node, reason)
    for node in sorted(set(nodes) - answers.valid.keys() - answers.faults.keys()):
        seconds = config.round_timeout
        answers.refuse(node, f"it did not answer within round-timeout = {seconds:g} seconds")
    return _clients_of(answers, count, config.min_participants if may_be_left_out else count)


def _clients_of(answers: _Answers, count: int, fewest: int) -> Clients:
    """Return the clients that the nodes' answers describe; the others are left out."""
    claims: dict[int, list[int]] = {}
    for node, answer in answers.valid.items():
        claims.setdefault(answer.partition_id, []).append(node)
    node_ids = {k: nodes[0] for k, nodes in claims.items() if k < count and len(nodes) == 1}
    found = {client: answers.valid[node] for client, node in node_ids.items()}
    missing = [client for client in range(count) if client not in found]
    faults = answers.faults
    if missing:
        faults = {**faults, **_misnumbered(claims, count)}
    if missing and len(found) < fewest:
        raise RunError(_too_few(faults, len(found), count, fewest))
    for reason, alike in by_reason(faults).items():
        warn(f"{_who(alike, answers.clients)} cannot take part: {reason}")
    if missing:
        whom = f"client{'s' if len(missing) > 1 else ''} {some(list(map(str, missing)), 20)}"
        warn(f"The run goes without {whom}")
    classes = len(next(iter(found.values())).class_counts)
    nothing = Description(partition_id=0, class_counts=[0] * classes)
    described = {client: found.get(client, nothing) for client in range(count)}
    return Clients(
        dict(sorted(node_ids.items())),
        {client: list(each.class_counts) for client, each in described.items()},
        {client: each.digest for client, each in described.items()},
        {client: each.num_validation for client, each in described.items()},
        [client for client, each in described.items() if each.own_images],
    )


def _misnumbered(claims: Mapping[int, Sequence[int]], count: int) -> dict[int, str]:
    """Return why nodes cannot be clients by their partition ids: partition id -> nodes with it."""
    remedy = f"Give each SuperNode its own number from 0 to {count - 1} in its --node-config"
    faults: dict[int, str] = {}
    for number, nodes in claims.items():
        if number >= count:
            faults |= dict.fromkeys(nodes, f"partition-id={number} is no client's. {remedy}")
        elif len(nodes) > 1:  # whose it is, nobody can tell
            said = f"{len(nodes)} SuperNodes have the same partition-id={number}. {remedy}"
            faults |= dict.fromkeys(nodes, said)
    return faults


def _who(nodes: Sequence[str], clients: Mapping[int, int]) -> str:
    """Return nodes, each with the client that it is where that is known."""
    known = {str(node): f" (client {client})" for node, client in clients.items()}
    named = [node + known.get(node, "") for node in nodes]
    return f"Node{'s' if len(named) > 1 else ''} {some(named, 10)}"


def _too_few(faults: Mapping[int, str], found: int, count: int, fewest: int) -> str:
    told = "; ".join(
        f"node{'s' if len(alike) > 1 else ''} {some(alike)}: {reason.rstrip('.')}"
        for reason, alike in by_reason(faults).items()
    )
    who = "A client cannot" if len(faults) == 1 else f"{len(faults)} clients cannot"
    few = ""
    if found and fewest < count:
        few = f", and {found} are fewer than min-participants = {fewest}"
    return f"{who} take part{few}: {shorten(told)}"


def _sort_answers(replies: Iterable[Message], num_labels: int) -> _Answers:
    answers = _Answers()
    for reply in replies:
        node = reply.metadata.src_node_id
        if reply.has_error():
            answers.refuse(node, reason_of(reply.error))
            continue
        try:
            answer = Description.from_record(reply.content.config_records[CONFIG])
        except KeyError:
            records = shorten(sorted(reply.content))
            answers.refuse(node, f"its answer holds the records {records}, not '{CONFIG}'")
        except RunError as error:
            answers.refuse(node, str(error))
        else:
            answers.valid[node] = answer
            if answer.channel_fault:
                answers.refuse(node, answer.channel_fault)
            elif len(answer.class_counts) != num_labels:
                counted = len(answer.class_counts)
                answers.refuse(node, f"it counts {counted} classes, not {num_labels}")
    return answers


def _check_all_came(late: int, expected: int, config: Config) -> None:
    """Refuse a simulation whose participants cannot be connected at once."""
    if late:
        raise ConfigError(
            f"strategy = '{config.strategy}' trains all {expected} participants of a round at the "
            f"same time, but only {expected - late} could be connected to the split server within "
            f"channel.join-timeout = {config.channel.join_timeout:g} seconds. In a simulation, let "
            f'as many clients run at once: --federation-config "num-supernodes={expected} '
            f'client-resources-num-cpus=1 init-args-num-cpus={expected}" for flwr run, or use '
            "'fedsplit run', which does so. Or raise channel.join-timeout, or lower "
            "fraction-train."
        )


def _wait_for_nodes(grid: Grid, count: int, timeout: float) -> list[int]:
    deadline = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"num-clients = {count}, but {len(nodes)} SuperNodes are connected after "
                f"{timeout:g} seconds (connect-timeout). Start the others, or register their keys "
                "('flwr supernode list' shows them). In a simulation, give "
                f'--federation-config "num-supernodes={count}" to flwr run, or use '
                f"'fedsplit run . --num-clients {count}', which does so."
            )
        say(f"Waiting for SuperNodes: {len(nodes)} of {count} connected")
        time.sleep(1.0)  # the grid has no way to wait for a node
    return nodes
