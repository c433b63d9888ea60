"""A process that makes runs one after another, as `WorkerProcess` asks.

Requests are lines of JSON on its standard input, answers are lines of JSON on its standard output.
It ends at once when its input ends, so that it does not outlive the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import TextIO

from fedsplit.errors import FedSplitError, RunError


class WorkerProcess:
    """The parent's handle of a worker process.

    Parameters
    ----------
    kept_open : int
        A file descriptor, such as that of a lock, that the process keeps open while it lives.
    """

    def __init__(self, kept_open: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedsplit.compare.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            pass_fds=[kept_open],
            start_new_session=True,  # Ctrl-C goes to the parent only, which then ends this process
        )

    def run(self, config: Path, log: Path) -> None:
        """Make one run, and wait until it has ended.

        Parameters
        ----------
        config : Path
            The TOML file of the run.
        log : Path
            Receives everything that the run prints.

        Raises
        ------
        RunError
            If the run fails, or its process ends.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([str(config), str(log)]), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except (OSError, ValueError):  # it has ended, or was stopped
            answer = ""
        if not answer:
            code = self._process.wait()
            what = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            raise RunError(
                f"Its process {what}. If memory ran out, use fewer --jobs. Its output is in "
                f"'{log}'."
            )
        if fault := json.loads(answer):
            raise RunError(fault)

    def stop(self) -> None:
        """End the process, also in the middle of a run."""
        self._process.kill()
        self._process.communicate()

    def is_alive(self) -> bool:
        """Return whether the process can make runs."""
        return self._process.poll() is None


def main() -> None:
    """Answer requests until the input ends."""
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    threading.Thread(target=_listen, args=(sys.stdin, requests), daemon=True).start()
    while True:
        config, log = json.loads(requests.get())
        with open(log, "w", encoding="utf-8") as file:
            for standard in (1, 2):
                os.dup2(file.fileno(), standard)
        print(json.dumps(_make(config)), file=answers, flush=True)


def _listen(lines: TextIO, requests: queue.SimpleQueue[str]) -> None:
    for line in lines:
        requests.put(line)
    os._exit(1)


def _make(config: str) -> str:
    """Make one run, and return what went wrong: an empty text if nothing did."""
    try:
        from fedsplit.simulation import simulate  # what it prints while it loads goes to the log

        simulate(config)
    except FedSplitError as error:
        traceback.print_exc()
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"unexpected {type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main()
