"""The node config of a SuperNode: what its owner decides, whatever the server's config says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from fedsplit.addresses import address_fault, host_fault
from fedsplit.config.errors import findings
from fedsplit.config.section import Section, Whole
from fedsplit.errors import ConfigError


class NodeConfig(Section):
    """The values of ``flower-supernode --node-config``, checked.

    Attributes
    ----------
    partition_id : int
        The client's number, from 0.
    num_partitions : int
        Flower's simulation sets it; it has no effect.
    data_path : str
        A data set of its own; empty = its partition of ``data.name``.
    channel_address : str
        Where its split server is, ``host:port`` or a host with any port: it connects to nothing
        else, whatever a message says; empty = this machine only.
    device : str
        A torch device of its own; empty = that of the run.
    root_certificates : str
        PEM file of the CAs that it trusts; empty = ``channel.root-certificates``.
    certificate, private_key : str
        PEM files of what it proves itself with; empty = nothing.
    """

    partition_id: Whole = Field(ge=0)
    num_partitions: Whole = 0
    data_path: str = ""
    channel_address: str = ""
    device: str = ""
    root_certificates: str = ""
    certificate: str = ""
    private_key: str = ""

    @field_validator("channel_address")
    @classmethod
    def _an_address(cls, address: str) -> str:
        host = address.removeprefix("[").removesuffix("]")  # in either form without a port
        if address and (fault := address_fault(address)) and host_fault(host):
            raise ValueError(f"{fault}, or a host alone")
        return address

    @model_validator(mode="after")
    def _what_is_given_is_whole(self) -> Self:
        if "data_path" in self.model_fields_set and not self.data_path:
            raise ValueError(
                "data-path = '': must not be empty; leave it out if the site trains on its "
                "partition of data.name"
            )
        if bool(self.certificate) != bool(self.private_key):
            raise ValueError("certificate and private-key must be set together")
        return self

    @classmethod
    def from_flat(cls, values: Mapping[str, object]) -> Self:
        """Check what Flower gives.

        Raises
        ------
        ConfigError
            With every unknown key and wrong value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            keys = [str(field.alias) for field in cls.model_fields.values()]
            found = "; ".join(findings(error, keys))
            said = f"The node config of this SuperNode is wrong: {found.rstrip('.')}"
            said += "" if found.endswith("?") else "."
            if any(details["loc"] == ("partition-id",) for details in error.errors()):
                said += (
                    " Start it with --node-config 'partition-id=0', a number from 0 to the number "
                    "of clients minus 1."
                )
            raise ConfigError(said) from None
