"""The head of a request, as far as Envoy tells of it: by its header fields, or by attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tocsin.ext_proc.requests import Fields

ENVOY_PREFIXES: Final = ("x-envoy-", "x-request-id", "x-forwarded-")  # fields that Envoy wrote of its own exchange
HEADER_ATTRIBUTE: Final = "request.headers['"  # of an attribute that is a header of the request


class ReportedHead:
    """What is known of a request so far. `fields` are empty where the filter does not send them; `attributes` then may
    tell what was in them. `encoding` is the compression of gRPC messages.
    """

    def __init__(self) -> None:
        self.fields: Fields = []
        self.attributes: dict[str, str] = {}
        self.encoding = ""
        self._path = self._verb = ""

    def on_fields(self, fields: Fields) -> None:
        """Envoy reports the header fields."""
        self.fields = fields
        for name, value in fields:
            if name == ":path":
                self._path = value
            elif name == ":method":
                self._verb = value
            elif name == "grpc-encoding":
                self.encoding = value

    def settle(self) -> None:
        """What attributes told of path and method stands, whatever attributes come later."""
        self._path, self._verb = self.path, self.verb

    @property
    def path(self) -> str:
        """The path, "" where nothing tells it."""
        return self._path or self.attributes.get("request.path", "")

    @property
    def verb(self) -> str:
        """The method of HTTP; POST where nothing tells it."""
        return self._verb or self.attributes.get("request.method", "POST")

    @property
    def metadata(self) -> Mapping[str, str]:
        """The request metadata that judgement reads. Of a repeated key, the last value counts."""
        if self.fields:
            return dict(self.fields)
        start, attributes = len(HEADER_ATTRIBUTE), self.attributes
        return {name[start:-2]: value for name, value in attributes.items() if name.startswith(HEADER_ATTRIBUTE)}

    @property
    def forwarded(self) -> Fields:
        """The header fields that are sent with the request once more."""
        return [(name, value) for name, value in self.fields if not name.startswith((":", *ENVOY_PREFIXES))]
