"""The base of every table of configuration keys: kebab-case, strict, immutable."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedsplit.addresses import address_fault


def _checked(address: str) -> str:
    if address and (fault := address_fault(address)):
        raise ValueError(fault)
    return address


Address = Annotated[str, AfterValidator(_checked)]  # host:port, or nothing
Whole = Annotated[int, Field(le=2**63 - 1)]  # the range of TOML and of Flower's run config


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Section(BaseModel):
    """A table of keys: kebab-case, strict, immutable."""

    model_config = ConfigDict(
        alias_generator=_kebab,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        str_max_length=10_000,
    )
