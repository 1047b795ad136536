"""The metadata that a server's handler sends, for judging what takes scores of it."""

from __future__ import annotations

from typing import Any

from tocsin.inprocess.holding import Holding


class _NotedContext:
    """A handler's context, which tells of the initial metadata that grpcio keeps to itself."""

    def __init__(self, context: Any, holding: Holding) -> None:
        self._context = context
        self._holding = holding

    def send_initial_metadata(self, initial_metadata: Any) -> Any:
        """As the context has it."""
        self._holding.note_initial(initial_metadata)
        return self._context.send_initial_metadata(initial_metadata)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def noted_context(context: Any, holding: Holding) -> Any:
    """The context that the handler gets: where judging takes initial metadata, one that tells of it."""
    return _NotedContext(context, holding) if holding.call.wants_initial else context


def note_trailing(context: Any, holding: Holding) -> None:
    """Keep what judging takes of the trailing metadata, once the handler has answered all."""
    if holding.call.wants_trailing:
        holding.note_trailing(context.trailing_metadata())
