"""The configuration keys of what is added to the cut: codecs and a defence."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from fedsplit.config.section import Section
from fedsplit.references import is_reference


def _none_or_reference(name: str) -> str:
    if name != "none" and not is_reference(name):
        raise ValueError("must be 'none', or name your own as package.module:name")
    return name


Extension = Annotated[str, AfterValidator(_none_or_reference)]


class CodecConfig(Section):
    """How floating-point tensors travel through the cut (docs/extending.md)."""

    uplink: Extension = Field(
        "none", description="codec from client to server: none, or package.module:name"
    )
    downlink: Extension = Field(
        "none", description="codec from server to client: none, or package.module:name"
    )


class DefenceConfig(Section):
    """What clients do to their smashed data before they send them (docs/extending.md)."""

    name: Extension = Field("none", description="defence: none, or package.module:name")
