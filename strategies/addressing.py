"""From an aggregator's messages to the participants': instructions, token, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import ArrayRecord, Message, RecordDict

from fedsplit.errors import RunError
from fedsplit.messages import ARRAYS, CONFIG, PROXIMAL_MU, Instructions
from strategies.answers import Asked
from strategies.kept import KeptByClients


def address_messages(
    messages: Iterable[Message],
    asked: Asked,
    *,
    instructions: Instructions,
    tokens: Mapping[int, str],
    weights_for: Callable[[int], ArrayRecord],
    kept: KeptByClients,
) -> list[Message]:
    """Return a message for each participant, in the order of partition ids.

    Parameters
    ----------
    messages : Iterable[Message]
        As the aggregator has configured them. Only FedProx's mu is taken from them.
    asked : Asked
        The participants of the round.
    instructions : Instructions
        What the round tells every participant.
    tokens : Mapping[int, str]
        Participant -> the token that opens its stream; empty without a split server.
    weights_for : Callable[[int], ArrayRecord]
        Returns the weights to send to a participant, if clients have any to train.
    kept : KeptByClients
        Knows of which round a participant's state is, and what gives it back.

    Raises
    ------
    RunError
        If the aggregator leaves a participant out.
    """
    client_of = {node: client for client, node in asked.participants.items()}
    addressed: dict[int, Message] = {}
    for message in messages:
        client = client_of[message.metadata.dst_node_id]
        config = message.content.config_records
        mu = config[CONFIG].get(PROXIMAL_MU, 0.0) if CONFIG in config else 0.0
        told = instructions.model_copy(
            update={
                "channel_token": tokens.get(client, ""),
                "proximal_mu": float(str(mu)),
                "kept_round": kept.expected_round(client),
            }
        )
        content = RecordDict({CONFIG: told.to_record()})
        if asked.sent:
            content[ARRAYS] = weights_for(client)
        for name, record in kept.give_back(client).items():
            content[name] = record
        addressed[client] = Message(
            content=content,
            message_type=message.metadata.message_type,
            dst_node_id=message.metadata.dst_node_id,
        )
    if missing := sorted(set(asked.participants) - set(addressed)):
        raise RunError(
            f"The aggregator gives {len(missing)} of the {len(asked.participants)} participants of "
            f"round {instructions.server_round} no message (client {missing[0]}). fedsplit samples "
            "them: let configure_train and configure_evaluate return one for each of "
            "grid.get_node_ids(), and set fraction-train and fraction-evaluate."
        )
    return [addressed[client] for client in sorted(addressed)]
