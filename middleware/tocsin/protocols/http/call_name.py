"""Where the calls of a route tell the name of their model, or its version."""

from __future__ import annotations

from typing import Any, Final

from tocsin.protocols.http.document import Document

PATH_KEY: Final = "path."  # begins the metadata keys of what a route's template captures


class CallName:
    """A name at `request.PATH`, `response.PATH`, `metadata.HEADER` or `path.NAME` of the route; "" for nowhere. Paths
    in messages may have alternatives, divided by `|`.

    `metadata_key` is the key of a name outside of messages, `side` the message of one inside, each "" where it is not.
    Raises ValueError where the path is none.
    """

    def __init__(self, path: str, request: Document, response: Document) -> None:
        self.metadata_key = path if path.startswith(PATH_KEY) else ""
        if path.startswith("metadata."):
            self.metadata_key = path.removeprefix("metadata.")
        self.side, _, rest = path.partition(".") if path and not self.metadata_key else ("", "", "")
        if self.side not in ("", "request", "response") or (self.side and not rest):
            raise ValueError(
                f"expected request.PATH, response.PATH, metadata.HEADER or path.NAME of the route, not '{path}'"
            )
        document = request if self.side == "request" else response
        ways = rest.split("|") if rest else []
        self._places = [document.place(way.strip().removeprefix(f"{self.side}."), "text") for way in ways]

    def members(self, side: str) -> list[str]:
        """The last members of its paths in one side's messages."""
        return [name for place in self._places for name in place.names] if side == self.side else []

    def text(self, response: Any, request: Any) -> str:
        """The name in decoded messages, "" where they have none. `request` may be None."""
        document = request if self.side == "request" else response
        for place in self._places if document is not None else ():
            value = place.follow(document)
            if value is not None and not isinstance(value, list):
                return str(value)
        return ""
