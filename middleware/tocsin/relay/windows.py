"""The four windows of a connection that keeps flow control itself, and what is owed to the senders of each stream."""

from __future__ import annotations

from tocsin.http2.receive_window import ReceiveWindow
from tocsin.http2.send_window import SendWindow, Writes
from tocsin.memory import MemoryAccount


class Windows:
    """`responses` go to the client within its windows, and the upstream is given some `from_server`; `requests` and
    `from_client` are the same the other way.
    """

    __slots__ = ("from_client", "from_server", "requests", "responses")

    def __init__(self, client: Writes, server: Writes, memory: MemoryAccount) -> None:
        self.responses = SendWindow(client, memory)
        self.requests = SendWindow(server, memory)
        self.from_server = ReceiveWindow(server, self.responses, memory)
        self.from_client = ReceiveWindow(client, self.requests, memory)

    def open(self, stream: int) -> None:
        """A stream has begun."""
        self.responses.open(stream)
        self.requests.open(stream)

    def reset(self, stream: int) -> None:
        """The client wants nothing more of a stream."""
        self.responses.close(stream)
        self.from_server.release_credit(stream, ended=True)

    def close(self, stream: int) -> None:
        """A stream has ended in both directions."""
        self.responses.close(stream)
        self.from_server.close(stream)
        self.requests.close(stream)
        self.from_client.close(stream)

    def drop(self) -> None:
        """The client is gone."""
        self.responses.drop()
        self.requests.drop()
