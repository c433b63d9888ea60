"""The app's ServerApp, in a process that kills itself at the moment that a file names."""

import json
import os
from pathlib import Path

from fedsplit.server_app import app
from tests.dying import die_in

__all__ = ["app"]

die_in(**json.loads(Path(os.environ["FLWR_HOME"], "dying.json").read_text(encoding="utf-8")))
