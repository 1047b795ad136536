"""Listening sockets for every form of address: IPv4, IPv6, host names, and paths of Unix sockets."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from tocsin.configuration.fields import Address


class BoundSocket:
    """A socket bound to an address; `address` has the port that the system chose for port 0. Raises OSError."""

    def __init__(self, address: Address) -> None:
        self.socket = bind(address)
        self.address = address if address.path else Address(address.host, self.socket.getsockname()[1])
        self._inode = Path(address.path).stat().st_ino if address.path else 0

    def close(self) -> None:
        """Accept no more connections. The file of a Unix socket is removed, unless another process has replaced it."""
        self.socket.close()
        file = Path(self.address.path)
        with suppress(OSError):
            if self.address.path and file.stat().st_ino == self._inode:
                file.unlink()


def bind(address: Address, *, shares_port: bool = False) -> socket.socket:
    """A socket bound to an address, not listening yet. `shares_port`: other processes listen on the same port. Raises
    OSError.
    """
    return _unix(address.path) if address.path else _tcp(address, shares_port)


def _unix(path: str) -> socket.socket:
    if Path(path).is_socket():
        Path(path).unlink()  # of a process that is gone, or is being replaced
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    return bound


def _tcp(address: Address, shares_port: bool) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound
