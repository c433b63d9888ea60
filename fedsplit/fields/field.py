"""What a field of a run's results is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OverClients = Literal["sum", "mean", "max", "none"]
OverRounds = Literal["sum", "last", "mean", "none"]
Form = Literal["auto", "score", "count", "number"]
Place = Literal["log", "rounds", "summary", "scores", "traffic", "sides", "time"]


@dataclass(frozen=True)
class Field:
    """One field of a run's results.

    Attributes
    ----------
    key : str
        Its key in rounds.jsonl and summary.json.
    label : str
        Its name in tables and pictures.
    unit : str
        Such as ``B``, ``s`` or ``FLOP``; empty for a plain number.
    over_clients : {"sum", "mean", "max", "none"}
        How a round's value is made from its participants' values. ``mean`` is weighted by n_k,
        their numbers of examples. ``none``: clients do not report it.
    over_rounds : {"sum", "last", "mean", "none"}
        How the summary's value, under the same key, is made from the rounds' values. ``last`` is
        that of the last round that has one. ``none``: the summary does not have this key, or has
        it from elsewhere.
    """

    key: str
    label: str
    unit: str = ""
    over_clients: OverClients = "mean"
    over_rounds: OverRounds = "last"


@dataclass(frozen=True, kw_only=True)
class BuiltIn(Field):
    """A field that fedsplit records itself.

    Attributes
    ----------
    short : str
        A shorter label for narrow places; empty: the label.
    form : {"auto", "score", "count", "number"}
        How a value is written: ``score`` with four decimals, ``count`` without any, ``number``
        with four significant digits, ``auto`` as its unit suggests.
    shown : frozenset[Place]
        Where it is shown: the line that is logged for a round (``log``), the table that is logged
        at the end (``table``), the report of a run (``rounds``, ``summary``), and the tables of a
        comparison's report (``scores``, ``traffic``, ``sides``, ``time``).
    default : int | None
        The summary's value if no round has one.
    """

    over_clients: OverClients = "none"
    over_rounds: OverRounds = "none"
    short: str = ""
    form: Form = "auto"
    shown: frozenset[Place] = frozenset()
    default: int | None = None

    @property
    def group(self) -> str:
        """The group of its curve in TensorBoard and Weights & Biases: its key's first word."""
        return self.key.partition("_")[0]

    @property
    def short_label(self) -> str:
        """The label for narrow places."""
        return self.short or self.label
