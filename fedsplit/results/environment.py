"""Where and when a run is made: date, device, CPU, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fedsplit.fields import ENVIRONMENT_KEYS

_PACKAGE = Path(__file__).parents[1]
_SECONDS = 20
_OF_CLIENTS = ("num_train_examples", "num_validation_examples")
_LATER = re.compile(r"; from round \d+: ")


def environment(device: str, code: str | None = None) -> dict[str, str | None]:
    """Return what summary.json says of the place of a run, by `fedsplit.fields.ENVIRONMENT_KEYS`.

    Parameters
    ----------
    device : str
        The config's device.
    code : str | None
        The digest of the user's own code (see `fedsplit.own_code`).
    """
    from fedsplit.threads import available_cores  # loads torch, which a report does not need

    cores = available_cores()
    found = {
        "started_at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": _device(device),
        "cpu": f"{_cpu()}, {cores} core{'' if cores == 1 else 's'}",
        "commit": commit_of(_PACKAGE / "__init__.py"),
        "code_sha256": code,
    }
    return {key: found[key] for key in ENVIRONMENT_KEYS}


def continued_in(saved: Mapping[str, Any], now: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Return the facts of a run that continues: where it began, and where it is now if elsewhere.

    Its images are those of all clients that have been there, at first or later.

    Parameters
    ----------
    saved, now : Mapping[str, Any]
        The facts of the run so far, and those of this process.
    rounds : int
        The finished rounds.
    """
    facts = dict(saved)
    for key in _OF_CLIENTS:  # a site that was left out at first may be there now
        if key in facts and key in now:
            facts[key] = max(facts[key] or 0, now[key] or 0)
    for key in (*ENVIRONMENT_KEYS, "engine"):
        if key == "started_at" or key not in now:
            continue
        was, here = facts.get(key) or "not known", now[key] or "not known"
        if at_last(was) != here:
            facts[key] = f"{was}; from round {rounds + 1}: {here}"
    return facts


def at_first(fact: str) -> str:
    """Return what a fact that may have changed (see `continued_in`) was in the first round."""
    return _LATER.split(fact)[0]


def at_last(fact: str) -> str:
    """Return what it was in the last round."""
    return _LATER.split(fact)[-1]


def commit_of(file: Path) -> str | None:
    """Return the commit of the git checkout that a file belongs to, or None if it is in none.

    A file that the repository around it does not track is in none: an installed package in somebody
    else's checkout, or the copy of the app that Flower runs. A checkout that differs from its
    commit says so.
    """
    folder = str(file.parent)
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    if not commit or changes is None:
        return None
    return f"{commit} with uncommitted changes" if changes else commit


def _git(folder: str, *arguments: str) -> str | None:
    # A hook that starts a run has set variables that name its own repository.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", folder, *arguments],
            capture_output=True,
            check=True,
            env=variables,
            text=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None  # no git, or no repository
    return done.stdout.strip()


def _device(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def _cpu() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    if found := re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE):
        return " ".join(found[1].split())
    return platform.processor() or platform.machine() or "unknown CPU"
