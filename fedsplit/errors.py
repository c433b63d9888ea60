"""Errors that fedsplit raises deliberately: one paragraph with the fault, the value, the remedy.

`exit_code` is the exit status of the command line: 2 if the arguments or the configuration are
wrong, 1 if a run failed, 130 if it was interrupted.
"""

from __future__ import annotations

import os
from errno import EACCES, EMFILE, ENFILE, EPERM, EROFS
from pathlib import Path


class FedSplitError(Exception):
    """Base of all errors whose message is meant for the user."""

    exit_code = 1


class ConfigError(FedSplitError):
    """A configuration key, value or combination that cannot work."""

    exit_code = 2


OTHER_VERSION = (
    "Another version of fedsplit has written it. Continue with that version, or make the run again "
    "from its config.toml, under another run-name."
)


class CheckpointError(ConfigError):
    """A saved state that a run cannot continue from: the same command would fail again."""


class MissingKeyError(CheckpointError, KeyError):
    """A saved state without a key that this version of fedsplit writes."""

    def __init__(self, source: str, key: object) -> None:
        super().__init__(f"{source} lacks {key!r}. {OTHER_VERSION}")

    def __str__(self) -> str:
        """Return the message as it is; a `KeyError` would put it in quotes."""
        return str(self.args[0])


class DataError(FedSplitError):
    """A data set that cannot be loaded, or does not hold labelled images."""

    exit_code = 2


class ModelError(FedSplitError):
    """A model that cannot be found, cut at the configured layer, or loaded strictly."""

    exit_code = 2


class ChannelError(FedSplitError):
    """The channel between a split session and the split server failed or refused a frame."""


class UnreachableError(ChannelError):
    """No connection to the split server could be made, or none lasted."""


class DamagedError(ChannelError):
    """Bytes that were changed on their way: they have to be sent again."""


class DivergedError(ChannelError):
    """Numbers of the training that became NaN or infinite.

    Parameters
    ----------
    fault : str
        Which numbers, as a sentence.
    remedy : str
        What to do, as a sentence.
    """

    def __init__(self, fault: str, remedy: str = "Lower learning-rate.") -> None:
        super().__init__(f"{fault} {remedy}")
        self.fault = fault


class RunError(FedSplitError):
    """A run that started but could not be finished."""


class InterruptionError(RunError):
    """A run that was ended by Ctrl-C or SIGTERM."""

    exit_code = 130  # as shells say it: 128 and the number of SIGINT


_LONGEST_FAULT = 1000


def shorten(fault: object) -> str:
    """Shorten text that a sender chose, such as names: an error has to fit in gRPC's metadata."""
    text = str(fault)
    return text if len(text) <= _LONGEST_FAULT else f"{text[:_LONGEST_FAULT]} ..."


def sentence(fault: object) -> str:
    """Return text with a full stop, unless it ends with one: libraries write errors without."""
    text = str(fault)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def cannot_write(path: Path, error: Exception) -> RunError:
    """Return the error about a file or folder that cannot be written."""
    remedy = "Free space on its disk, and check that its folder still exists."
    if getattr(error, "errno", None) in (EACCES, EPERM, EROFS):
        remedy = "Give yourself permission to write there, or work on a copy elsewhere."
    return RunError(f"Cannot write '{path}': {_reason(error)}. {too_many_files(error) or remedy}")


def cannot_read(path: Path, error: Exception) -> RunError:
    """Return the error about a file of a run that cannot be read again."""
    remedy = "Check that nothing else removes files from its folder."
    return RunError(f"Cannot read '{path}': {_reason(error)}. {too_many_files(error) or remedy}")


def damaged(path: Path, error: Exception, remedy: str) -> ConfigError:
    """Return the error about a file of results that does not hold what fedsplit writes there."""
    return ConfigError(f"'{path}' cannot be read ({_reason(error)}). {remedy}")


def too_many_files(error: Exception) -> str | None:
    """Return the remedy if a process has no descriptors left; some libraries only say so."""
    if getattr(error, "errno", None) not in (EMFILE, ENFILE) and (
        os.strerror(EMFILE) not in str(error)
    ):
        return None
    return (
        "Raise the limit of open files, for example with 'ulimit -n 4096', or lower "
        "max-concurrent-clients."
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
