"""A Flower app that asks every node which partition it has."""

import time
from logging import INFO

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Log the partitions that answered."""
    while len(nodes := list(grid.get_node_ids())) < int(context.run_config["nodes"]):
        time.sleep(0.1)  # the ServerApp starts before the nodes are there
    questions = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    answers = [reply.content.config_records["config"] for reply in grid.send_and_receive(questions)]
    log(INFO, "partitions: %s", sorted(str(answer["partition-id"]) for answer in answers))


@client.query()
def query(message: Message, context: Context) -> Message:
    """Answer with the node's partition."""
    partition = int(context.node_config["partition-id"])
    content = RecordDict({"config": ConfigRecord({"partition-id": partition})})
    return Message(content, reply_to=message)
