"""Errors that fedsplit raises on purpose: one paragraph with what, value and remedy.

`exit_code` is what the command line ends with: 2 for what the caller's arguments or
configuration got wrong, 1 for a run that failed.
"""

from __future__ import annotations


class FedSplitError(Exception):
    """Base of all errors that are meant to be read by a person."""

    exit_code = 1


class ConfigError(FedSplitError):
    """A configuration key, value or combination that cannot be run."""

    exit_code = 2


class DataError(FedSplitError):
    """A data set that cannot be had, or does not hold labelled images."""

    exit_code = 2


class ModelError(FedSplitError):
    """A model that cannot be had, split at the asked cut, or loaded strictly."""

    exit_code = 2


class ChannelError(FedSplitError):
    """The channel between a split session and the split server failed or refused a frame."""


class RunError(FedSplitError):
    """A run that started and could not be finished."""


_LONGEST_FAULT = 1000


def shorten(fault: object) -> str:
    """Cut what a sender chose, such as names: an error has to fit into gRPC's metadata."""
    text = str(fault)
    return text if len(text) <= _LONGEST_FAULT else f"{text[:_LONGEST_FAULT]} ..."
