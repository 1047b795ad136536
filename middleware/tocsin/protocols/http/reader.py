"""Reads a model's signals from decoded documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.protocols.field_values import Array
from tocsin.protocols.http.document import Document
from tocsin.protocols.likeliest import Read
from tocsin.protocols.rows import Reading, RowPlans
from tocsin.unscored import Unscored


class OpenedDocument:
    """A decoded response, with the model's name where the call gives it."""

    __slots__ = ("content", "empty", "is_summary", "kind", "message", "model", "sequence", "version")

    def __init__(
        self,
        model: str,
        version: str,
        content: bytes,
        kind: Document,
        message: Any,
        is_summary: bool,
        sequence: int,
        empty: bool = False,
    ) -> None:
        self.model, self.version = model, version
        self.content, self.kind, self.message = content, kind, message
        self.is_summary, self.sequence, self.empty = is_summary, sequence, empty

    def decoded_by(self, kind: Document) -> OpenedDocument:
        """The same, decoded as a document of another kind."""
        message = kind.decode(self.content)
        return OpenedDocument(
            self.model, self.version, self.content, kind, message, self.is_summary, self.sequence, self.empty
        )


class JsonReader:
    """Reads a model's signals. Messages that are judged together are joined along the first axis."""

    def __init__(
        self,
        signals: Sequence[tuple[str, bool, Read, str]],
        request: Document,
        response: Document,
        names: Mapping[str, Sequence[str]],
        plans: RowPlans,
    ) -> None:
        self._signals = list(signals)
        self._request, self._response = request, response
        self._request_names = list(dict.fromkeys(names["request"]))
        self._response_names = list(dict.fromkeys(names["response"]))
        self._wants_request = any(in_request for _, in_request, _, _ in signals)
        self._plans = plans

    def read(self, opened: Sequence[Any], request: bytes | None) -> Reading:
        """Rows, family and raw contents. Raises Unscored."""
        requests: list[OpenedDocument] = []
        if self._wants_request:
            if request is None:
                raise Unscored("missing_signal", "there is no request to read a signal from")
            document = self._request.decode(request)
            self._request.require_single(request, document, self._request_names)
            requests = [OpenedDocument("", "", request, self._request, document, False, 0)]
        if opened[0].kind is not self._response:  # of the method as it was before the configuration was reloaded
            opened = [part.decoded_by(self._response) for part in opened]
        raws: list[bytes] = []
        shaped: list[tuple[tuple[int, ...], bool | None]] = []
        for name, in_request, read, path in self._signals:
            values: Array | None = read(requests if in_request else opened, self._plans.width(name))
            if values is None:
                side, where = ("request" if in_request else "response"), f" at '{path}'" if path else ""
                raise Unscored("missing_signal", f"the {side} has no values for the signal '{name}'{where}")
            shaped.append((values.shape, values.rows))
            raws.append(values.raw)
        for part in opened:
            self._response.require_single(part.content, part.message, self._response_names)
        rows, family = self._plans.of(tuple(shaped))
        return rows, family, raws
