"""The admin port: gRPC health for everybody, and Tocsin's own services for those who show the token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.relay.tls import Certificates

READINESS_INTERVAL = 0.5  # seconds between looks whether new calls are welcome
GUARDED_PREFIX = "/tocsin."  # what the methods begin with that need the token


class AdminServer:
    """The gRPC health service (grpc.health.v1), for `` and `tocsin`, and other `handlers`, on a port of its own."""

    def __init__(self, config: Config, handlers: Sequence[Any] = ()) -> None:
        assert config.admin is not None
        self._config = config
        self._address = config.admin
        self._handlers = tuple(handlers)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen and say SERVING. Raises StartError when the address cannot be had, or a file not be read."""
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        self._servicer = health.aio.HealthServicer()
        self._serving = health_pb2.HealthCheckResponse.SERVING
        self._not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        token, credentials = self._token(), self._credentials()
        self._server = grpc.aio.server(interceptors=[TokenInterceptor(token)])
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        self._server.add_generic_rpc_handlers(self._handlers)
        try:
            if credentials is None:
                port = self._server.add_insecure_port(str(self._address))
            else:
                port = self._server.add_secure_port(str(self._address), credentials)
        except RuntimeError as error:
            raise StartError(f"admin: cannot listen on {self._address}") from error
        if not self._address.path:
            self._address = Address(self._address.host, port)
        await self.set_serving(ready=True)
        await self._server.start()

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose for port 0."""
        return self._address

    def check(self) -> None:
        """Look at token and certificates without listening. Raises StartError naming what cannot be used."""
        self._token()
        self._credentials()

    async def set_serving(self, *, ready: bool) -> None:
        """Say SERVING or NOT_SERVING."""
        for service in ("", "tocsin"):
            await self._servicer.set(service, self._serving if ready else self._not_serving)

    async def follow_readiness(self, is_ready: Callable[[], bool]) -> None:
        """Say what /readyz says, for as long as this runs."""
        was_ready = True
        while True:
            await asyncio.sleep(READINESS_INTERVAL)
            if is_ready() != was_ready:
                was_ready = not was_ready
                await self.set_serving(ready=was_ready)

    async def drain(self) -> None:
        """Say NOT_SERVING from here on."""
        await self._servicer.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Stop answering."""
        if self._server is not None:
            await self._server.stop(0.2)

    def _token(self) -> str:
        """The token that callers must show, nothing where none is needed. Raises StartError."""
        path, tls = self._config.admin_token, self._config.admin_tls
        if path is not None:
            token = _read("admin_token", path).decode("utf-8", "replace").strip()
            if not token:
                raise StartError(f"admin_token: {path} is empty")
            if not (token.isascii() and token.isprintable()):
                raise StartError(f"admin_token: {path} holds more than one line of printable ASCII")
            return token
        near = self._address.path or self._address.host in ("127.0.0.1", "::1", "localhost")
        if not near and (tls is None or tls.client_ca is None):
            raise StartError(
                f"admin: {self._address} can be reached from elsewhere, and whoever reaches it can reload and move "
                f"levels: set admin_token, or admin_tls with client_ca, or listen on loopback"
            )
        return ""

    def _credentials(self) -> grpc.ServerCredentials | None:
        tls = self._config.admin_tls
        if tls is None:
            return None
        Certificates(tls, None, ("admin_tls", "")).read()  # gRPC itself would only say that it cannot listen
        pair = _read("admin_tls", tls.key), _read("admin_tls", tls.certificate)
        authority = None if tls.client_ca is None else _read("admin_tls", tls.client_ca)
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets calls of Tocsin's own services in that show `authorization: Bearer TOKEN`; without a token, all of them."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}" if token else ""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if self._expected and details.method.startswith(GUARDED_PREFIX):
            shown = dict(details.invocation_metadata or ()).get("authorization", "")
            if not hmac.compare_digest(str(shown).encode(), self._expected.encode()):
                return grpc.unary_unary_rpc_method_handler(_refuse)
        return await continuation(details)


async def _refuse(request: Any, context: Any) -> None:
    del request
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "show the token of admin_token as `authorization: Bearer ...`")


def _read(where: str, path: Any) -> bytes:
    try:
        content: bytes = path.read_bytes()
    except OSError as error:
        raise StartError(f"{where}: {path}: cannot be read ({error.strerror})") from None
    return content
