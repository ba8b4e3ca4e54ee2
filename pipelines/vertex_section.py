"""The `vertex` section of a resources file: what Vertex AI is told about the CustomJobs of all stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twhin_core.config.section import Section

PART = r"[A-Za-z0-9._:-]+"
Network = Annotated[str, Field(pattern=rf"^projects/{PART}/global/networks/{PART}$")]
Attachment = Annotated[str, Field(pattern=rf"^projects/{PART}/regions/{PART}/networkAttachments/{PART}$")]
CryptoKey = Annotated[str, Field(pattern=rf"^projects/{PART}/locations/{PART}/keyRings/{PART}/cryptoKeys/{PART}$")]
Reservation = Annotated[str, Field(pattern=rf"^(any|none|projects/{PART}/zones/{PART}/reservations/{PART})$")]
DiskType = Literal["pd-ssd", "pd-balanced", "pd-standard", "hyperdisk-balanced"]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Value = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


class DnsPeering(Section):
    """A DNS domain that the machines look up in a network of yours."""

    domain: Annotated[str, Field(pattern=r"^([a-z0-9-]+\.)+$")] = Field(description='Domain, such as "example.com.".')
    project: str = Field(min_length=1, description="Project of the network.")
    network: str = Field(min_length=1, description="Name of the network.")


class Vertex(Section):
    """What Vertex AI is told about every stage, each of which then is a CustomJob."""

    network: Network | None = Field(
        None, description="Network to peer with, such as `projects/12345/global/networks/mine`."
    )
    reserved_ip_ranges: list[str] = Field([], description="Names of the ranges of `network` to take addresses from.")
    network_attachment: Attachment | None = Field(
        None, description="Private Service Connect: `projects/mine/regions/europe-west4/networkAttachments/mine`."
    )
    dns_peerings: list[DnsPeering] = Field([], description="Domains to look up through `network_attachment`.")
    encryption_key: CryptoKey | None = Field(
        None, description="Customer-managed key: `projects/…/locations/…/keyRings/…/cryptoKeys/…`."
    )
    labels: dict[Key, Value] = Field({}, max_length=64, description="Labels of the pipeline's run and its CustomJobs.")

    @model_validator(mode="after")
    def _one_way_into_the_network(self) -> Vertex:
        if self.network is not None and self.network_attachment is not None:
            raise ValueError("network: excludes network_attachment; set one of them")
        if self.reserved_ip_ranges and self.network is None:
            raise ValueError("reserved_ip_ranges: are ranges of `network`, which is not set")
        if self.dns_peerings and self.network_attachment is None:
            raise ValueError("dns_peerings: need network_attachment, which is not set")
        return self
