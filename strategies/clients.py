"""The clients of a run: found once, known and sampled by partition id.

Flower's node ids are random and its `sample_nodes` is unseeded, so neither can decide anything
in a run that has to repeat.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Timer
from typing import Self

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsplit.config import Config
from fedsplit.errors import ConfigError, RunError, shorten
from fedsplit.messages import CONFIG, DESCRIBE, Description, Instructions
from fedsplit.names import some
from fedsplit.run_log import say, warn
from fedsplit.seeding import generator
from fedsplit.split.client_rules import ClientRule
from fedsplit.split.phases import Purpose
from fedsplit.split.server import RoundReport, SplitServer
from fedsplit.split.totals import Work
from strategies.replies import by_reason, reason_of

_QUIET_SECONDS = 2.0
"""After which a person is told what the run waits for."""


@dataclass(frozen=True)
class Clients:
    """The clients of a run.

    Attributes
    ----------
    node_ids : Mapping[int, int]
        Partition id -> Flower node id, sorted by partition id; without those that are left out.
    class_counts : Mapping[int, Sequence[int]]
        Partition id -> training images of each class, of all clients: 0 of those that have been
        left out of the run so far.
    digests : Mapping[int, str]
        Partition id -> digest of its images; empty if the run writes no checkpoints.
    validation : Mapping[int, int]
        Partition id -> images that it holds out for federated evaluation.
    """

    node_ids: Mapping[int, int]
    class_counts: Mapping[int, Sequence[int]]
    digests: Mapping[int, str] = field(default_factory=dict)
    validation: Mapping[int, int] = field(default_factory=dict)

    @property
    def num_validation(self) -> int:
        """Images that all clients together hold out."""
        return sum(self.validation.values())

    def work(
        self, purpose: Purpose, clients: Iterable[int], config: Config, rule: type[ClientRule]
    ) -> dict[int, Work]:
        """Return what the images of clients allow each of them to do in a round."""
        if purpose is Purpose.TRAIN:
            size, epochs, often = config.batch_size, config.local_epochs, rule.steps_per_batch
            return {k: Work.of(sum(self.class_counts[k]), size, epochs, often) for k in clients}
        return {k: Work.of(self.validation.get(k, 0), config.batch_size) for k in clients}

    @classmethod
    def discover(
        cls,
        grid: Grid,
        config: Config,
        *,
        instructions: Instructions,
        rendezvous: SplitServer | None = None,
        may_be_left_out: bool = False,
    ) -> Self:
        """Ask every connected node who it is and what it holds.

        A site that cannot answer, or cannot reach the split server, may be left out of the run, as
        one that fails in a round is left out of that round.

        Parameters
        ----------
        grid : Grid
            Flower's grid, or the in-process one.
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
        answers, faults = _sort_answers(replies, instructions.num_labels)
        silent = set(nodes) - answers.keys() - faults.keys()
        why = f"it did not answer within round-timeout = {config.round_timeout:g} seconds"
        faults |= dict.fromkeys(sorted(silent), why)
        fewest = config.min_participants if may_be_left_out else count
        clients = cls._of(answers, faults, count, fewest)
        if rendezvous is not None:
            _check_rendezvous(rendezvous.report(), faults, config)
        return clients

    @classmethod
    def _of(
        cls,
        answers: Mapping[int, Description],
        faults: Mapping[int, str],
        count: int,
        fewest: int,
    ) -> Self:
        """Return the clients that the nodes' answers describe; the others are left out."""
        claims: dict[int, list[int]] = {}
        for node, answer in answers.items():
            claims.setdefault(answer.partition_id, []).append(node)
        node_ids = {k: nodes[0] for k, nodes in claims.items() if k < count and len(nodes) == 1}
        found = {client: answers[node] for client, node in node_ids.items()}
        missing = [client for client in range(count) if client not in found]
        if missing:
            faults = {**faults, **_misnumbered(claims, count)}
        told = _told(faults)
        if missing and len(found) < fewest:
            few = ""
            if found and fewest < count:
                few = f", and {len(found)} are fewer than min-participants = {fewest}"
            raise RunError(f"{_cannot(len(faults))} take part{few}: {shorten(told)}")
        if missing:
            whom = f"client{'s' if len(missing) > 1 else ''} {some(list(map(str, missing)))}"
            warn(f"{_cannot(len(faults))} take part, so the run goes without {whom}: {told}")
        elif faults:
            warn(f"{_cannot(len(faults))} take part, and the run needs none of them: {told}")
        classes = len(next(iter(found.values())).class_counts)
        nothing = Description(partition_id=0, class_counts=[0] * classes)
        described = {client: found.get(client, nothing) for client in range(count)}
        return cls(
            dict(sorted(node_ids.items())),
            {client: list(each.class_counts) for client, each in described.items()},
            {client: each.digest for client, each in described.items()},
            {client: each.num_validation for client, each in described.items()},
        )

    def sample(self, fraction: float, seed: int, *names: str | int) -> list[int]:
        """Return a seeded sample of partition ids, sorted; at least one unless the fraction is 0.

        Parameters
        ----------
        fraction : float
            Part of all clients.
        seed : int
            The run's seed.
        *names : str | int
            What the sample is for, such as ``"train", server_round``.
        """
        if fraction == 0.0:
            return []
        clients = list(self.node_ids)
        size = sample_size(fraction, len(clients))
        order = torch.randperm(len(clients), generator=generator(seed, "sample", *names))
        return sorted(clients[index] for index in order[:size].tolist())


def sample_size(fraction: float, total: int) -> int:
    """Return how many of all clients a round samples, if it samples any."""
    return max(1, round(fraction * total))


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


def _cannot(count: int) -> str:
    return "A client cannot" if count == 1 else f"{count} clients cannot"


def _told(faults: Mapping[int, str]) -> str:
    """Return why nodes cannot take part: those with one reason together."""
    return "; ".join(
        f"node{'s' if len(found) > 1 else ''} {some(found)}: {reason.rstrip('.')}"
        for reason, found in by_reason(faults).items()
    )


def _sort_answers(
    replies: Iterable[Message], num_labels: int
) -> tuple[dict[int, Description], dict[int, str]]:
    """Return what each node says about itself, and why others' answers do not count."""
    answers: dict[int, Description] = {}
    faults: dict[int, str] = {}
    for reply in replies:
        node = reply.metadata.src_node_id
        if reply.has_error():
            faults[node] = reason_of(reply.error)
            continue
        try:
            answer = Description.from_record(reply.content.config_records[CONFIG])
        except KeyError:
            records = shorten(sorted(reply.content))
            faults[node] = f"its answer holds the records {records}, not '{CONFIG}'"
        except RunError as error:
            faults[node] = str(error)
        else:
            if answer.channel_fault:
                faults[node] = answer.channel_fault
            elif len(answer.class_counts) == num_labels:
                answers[node] = answer
            else:
                faults[node] = f"it counts {len(answer.class_counts)} classes, not {num_labels}"
    return answers, faults


def _check_rendezvous(report: RoundReport, faults: Mapping[int, str], config: Config) -> None:
    """Refuse a run whose participants cannot be connected at once; those with faults are out."""
    came = len(report.num_examples)
    expected = came + len(report.failures.keys() - faults.keys())
    if came < expected:
        raise ConfigError(
            f"strategy = '{config.strategy}' trains all {expected} participants of a round at the "
            f"same time, but only {came} could be connected to the split server within "
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
