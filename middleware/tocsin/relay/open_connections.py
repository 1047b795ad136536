"""The connections of one port: those that are open or still shake hands, and whether another may come."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Generic, TypeVar

from tocsin.relay.descriptors import Descriptors

C = TypeVar("C")


class OpenConnections(Generic[C]):
    """Admits connections up to `most`, and as far as there are file descriptors. `limited` counts refusals."""

    def __init__(self, descriptors: Descriptors, limited: Counter[str]) -> None:
        self.connections: set[C] = set()
        self.handshakes: set[asyncio.Task[None]] = set()
        self.descriptors = descriptors
        self.limited = limited
        self.most = 0

    def has_room(self) -> bool:
        """Whether another connection may come. One that may not is counted."""
        in_use = len(self.connections) + len(self.handshakes)
        if in_use >= self.most:
            self.limited["connections"] += 1
            return False
        if in_use >= self.descriptors.most_connections:
            self.limited["descriptors"] += 1
            self.descriptors.run_out()
            return False
        return True

    def admit(self, connection: C) -> bool:
        """Add a connection if there is room for it; whether there is."""
        if not self.has_room():
            return False
        self.connections.add(connection)
        return True
