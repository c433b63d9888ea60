"""A Flower app that sends an array to a node and back, and logs how long that takes."""

import json
import time
from logging import INFO

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Log the seconds of each exchange with one node as JSON."""
    while len(nodes := list(grid.get_node_ids())) < int(context.run_config["nodes"]):
        time.sleep(0.1)
    arrays = ArrayRecord([np.zeros(int(context.run_config["floats"]), dtype=np.float32)])
    seconds = []
    for _ in range(int(context.run_config["exchanges"]) + 1):
        started = time.perf_counter()
        content = RecordDict({"arrays": arrays})
        question = Message(content, dst_node_id=nodes[0], message_type="train")
        (reply,) = grid.send_and_receive([question])
        assert len(reply.content.array_records["arrays"]) == 1
        seconds.append(time.perf_counter() - started)
    log(INFO, "seconds: %s", json.dumps(seconds[1:]))  # the first one starts Ray's actors


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the same array."""
    return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)
