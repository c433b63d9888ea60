"""What springs if received bytes are unpickled."""

from __future__ import annotations


class Trap:
    """Pickle it; `sprung` says whether anyone has loaded that."""

    sprung = False

    @staticmethod
    def spring() -> str:
        Trap.sprung = True
        return "trap"

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return Trap.spring, ()
