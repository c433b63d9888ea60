"""The app's ClientApp, which kills a process in the middle of a round: see `Kill`."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsplit import client_app
from fedsplit.client_errors import explain_errors
from tests.e2e.kill import killing_images

app = ClientApp(mods=[explain_errors])
app.query("describe")(client_app.describe)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as the app does; a function of this module, or Ray's actors never import it."""
    with killing_images(message):
        return client_app.train(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate as the app does."""
    with killing_images(message):
        return client_app.evaluate(message, context)
