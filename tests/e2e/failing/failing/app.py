"""The app's ClientApp, with a disk that breaks in client 1 after one step of a round."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsplit import client_app
from fedsplit.client_errors import explain_errors

from .disk import broken_for

vars(client_app)["load_shard"] = broken_for(1, vars(client_app)["load_shard"])
app = ClientApp(mods=[explain_errors])
app.query("describe")(client_app.describe)
app.evaluate()(client_app.evaluate)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as the app does; a function of this module, or Ray's actors never import it."""
    return client_app.train(message, context)
