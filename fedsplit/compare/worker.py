"""A process that makes runs one after another, as `WorkerProcess` asks it to.

Requests come as lines of JSON on its standard input, answers go as lines of JSON to its standard
output. When the input ends, it ends at once: it does not outlive the process that started it.
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
    """The parent's end.

    Parameters
    ----------
    kept_open : int
        A file descriptor that the process keeps open as long as it lives, such as a lock's.
    """

    def __init__(self, kept_open: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedsplit.compare.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            pass_fds=[kept_open],
            start_new_session=True,  # Ctrl-C is for the parent, whose end ends this
        )

    def run(self, config: Path, log: Path) -> None:
        """Make one run, and wait for it.

        Parameters
        ----------
        config : Path
            Its TOML file.
        log : Path
            Where everything goes that it prints.

        Raises
        ------
        RunError
            If it fails, or takes the process with it.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([str(config), str(log)]), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except (OSError, ValueError):  # it has gone, or was stopped
            answer = ""
        if not answer:
            code = self._process.wait()
            what = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            raise RunError(
                f"Its process {what}; if that was for lack of memory, use fewer --jobs. What it "
                f"printed is in '{log}'."
            )
        if fault := json.loads(answer):
            raise RunError(fault)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()

    def is_alive(self) -> bool:
        """Return whether it can be asked."""
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
    """Make one run; returns what went wrong, or nothing."""
    try:
        from fedsplit.inprocess import simulate  # what it says while it loads belongs in the log

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
