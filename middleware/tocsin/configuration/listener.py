"""Settings of a port for callers: the model server behind it, TLS, and limits."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ByteSize, ConfigDict, Field

from tocsin.configuration.fields import Address, AddressField, Duration


class TlsConfig(BaseModel):
    """The certificate that callers see, and whether they must show one."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    certificate: Path = Field(description="A PEM file with the certificate and its chain.")
    key: Path = Field(description="A PEM file with the private key.")
    client_ca: Path | None = Field(
        None, description="A PEM file of authorities: callers must show a certificate of one of them (mTLS)."
    )

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.certificate, self.key = folder / self.certificate, folder / self.key
        self.client_ca = self.client_ca and folder / self.client_ca


class UpstreamTls(BaseModel):
    """TLS towards a model server."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    ca: Path | None = Field(None, description="A PEM file of authorities to trust; null: the system's.")
    certificate: Path | None = Field(None, description="A PEM file with the certificate to show (mTLS).")
    key: Path | None = Field(None, description="A PEM file with its private key.")
    name: str = Field("", description="The name that the server's certificate must have; empty: that of its address.")

    def resolve(self, folder: Path) -> None:
        """Make paths relative to a folder."""
        self.ca = self.ca and folder / self.ca
        self.certificate = self.certificate and folder / self.certificate
        self.key = self.key and folder / self.key


class Listener(BaseModel):
    """One port and the model server behind it."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    listen: AddressField = Field(description="Where callers connect: HOST:PORT or unix:/PATH.")
    upstream: AddressField = Field(Address("127.0.0.1", 8081), description="The model server: HOST:PORT or unix:/PATH.")
    tls: TlsConfig | None = Field(None, description="The certificate that callers see; null: they come without TLS.")
    upstream_tls: UpstreamTls | None = Field(None, description="TLS towards the model server; null: none.")
    model: str = Field("", description="The model behind it, where calls do not name it.")


class Limits(BaseModel):
    """What callers may use; beyond it they are refused, and counted."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    connections: int = Field(10_000, ge=1, description="Open client connections of one process.")
    streams: int = Field(10_000, ge=1, description="Calls under way on one connection.")
    resets: int = Field(
        10_000, ge=1, description="Calls that a connection may begin and reset within ten seconds (rapid reset)."
    )
    controls: int = Field(
        10_000, ge=1, description="SETTINGS, PING and empty frames that a connection may send within ten seconds."
    )
    headers: ByteSize = Field(ByteSize(64 << 10), ge=1024, le=1 << 18, description="Bytes of a call's header block.")
    handshake: Duration = Field(
        timedelta(seconds=10), description="How long a caller may take for its TLS handshake, and then for its preface."
    )
    idle: Duration | None = Field(
        None, description="A connection without calls for so long is asked to go; null: it may stay."
    )
    keepalive: Duration = Field(
        timedelta(seconds=60), description="How often TCP asks whether a silent peer is still there."
    )
