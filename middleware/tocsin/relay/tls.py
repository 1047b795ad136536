"""TLS on both sides of a port: contexts from certificate files, made anew when the files change."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tocsin.configuration.listener import TlsConfig, UpstreamTls
from tocsin.errors import StartError

H2 = ["h2"]
HTTP1 = ["http/1.1"]

Tls = TypeVar("Tls", TlsConfig, UpstreamTls)


class Certificates:
    """The contexts of one port: `served` for callers, `upstream` for the model server, `upstream_http1` for it where
    HTTP/1.1 is spoken; None for plain text. `serves_http1`: so may callers.
    """

    def __init__(
        self,
        served: TlsConfig | None,
        upstream: UpstreamTls | None,
        names: tuple[str, str] = ("tls", "upstream_tls"),  # of the settings
        *,
        serves_http1: Callable[[], bool] = lambda: False,
    ) -> None:
        self._served, self._upstream, self._names = served, upstream, names
        self.served: ssl.SSLContext | None = None
        self.upstream: ssl.SSLContext | None = None
        self.upstream_http1: ssl.SSLContext | None = None
        self._serves_http1 = serves_http1
        self._stamps: dict[Path, tuple[int, int]] = {}

    def read(self) -> None:
        """Read all files; on a mistake in one of them nothing changes. Raises StartError naming it."""
        stamps = self._look()
        served = None if self._served is None else _load_or_explain(self._names[0], server_context, self._served)
        upstream = None if self._upstream is None else _load_or_explain(self._names[1], client_context, self._upstream)
        upstream_http1 = None
        if self._upstream is not None:
            upstream_http1 = _load_or_explain(self._names[1], client_context, self._upstream)
            upstream_http1.set_alpn_protocols(HTTP1)
        if served is not None and self._serves_http1():
            served.set_alpn_protocols([*HTTP1, *H2])  # callers that speak both are judged by HTTP/1.1
        self.served, self.upstream, self.upstream_http1, self._stamps = served, upstream, upstream_http1, stamps

    def changed(self) -> bool:
        """Whether some file is another than when it was read."""
        return self._look() != self._stamps

    def _look(self) -> dict[Path, tuple[int, int]]:
        stamps = {}
        for config in (self._served, self._upstream):
            for path in vars(config).values() if config is not None else ():
                if isinstance(path, Path) and path.exists():
                    facts = path.stat()
                    stamps[path] = facts.st_mtime_ns, facts.st_ino
        return stamps


def server_context(config: TlsConfig) -> ssl.SSLContext:
    """What callers are shown; with `client_ca`, what they must show. Raises OSError (ssl.SSLError is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.certificate, config.key)
    context.set_alpn_protocols(H2)
    if config.client_ca is not None:
        context.load_verify_locations(config.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(config: UpstreamTls) -> ssl.SSLContext:
    """What the model server must show, and is shown. Raises OSError."""
    context = ssl.create_default_context(cafile=config.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(H2)
    if config.certificate is not None:
        context.load_cert_chain(config.certificate, config.key)
    return context


def _load_or_explain(where: str, make: Callable[[Tls], ssl.SSLContext], config: Tls) -> ssl.SSLContext:
    try:
        return make(config)
    except (OSError, ValueError) as error:
        files = ", ".join(str(path) for path in vars(config).values() if isinstance(path, Path))
        raise StartError(f"{where}: a certificate cannot be used ({error}); look at {files}") from None


def connecting_fault(error: OSError) -> str:
    """Why a connection to the model server was not made, in words; a TLS handshake with a server that has none too."""
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "it answers without TLS; leave upstream_tls out, or name its port with TLS"
    return error.strerror or str(error)
