"""Responses that the relay writes itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus

from tocsin.exchange.replies import Reply
from tocsin.exchange.treatment import BODY_DEPENDENT_FIELDS
from tocsin.http_relay.heads import Http1Request, lines_of
from tocsin.outbound_http import CONNECTION_FIELDS
from tocsin.verdict import METADATA_KEY

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_OF_ANOTHER = CONNECTION_FIELDS | BODY_DEPENDENT_FIELDS | {METADATA_KEY}


def written(reply: Reply, request: Http1Request | None, *, closes: bool, more: Sequence[tuple[str, str]] = ()) -> bytes:
    """A whole response to a request, None: to what is none. `closes`: the connection ends with it; `more`: fields that
    it gets besides.
    """
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = ""
    fields = [(name, value) for name, value in reply.headers if name not in _OF_ANOTHER]
    fields += [("content-length", str(len(reply.body))), *more]
    if closes:
        fields.append(("connection", "close"))
    elif request is not None and request.minor == 0:
        fields.append(("connection", "keep-alive"))
    body = b"" if request is not None and request.verb == "HEAD" else reply.body
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (reply.status, phrase.encode(), lines_of(fields), body)


def refusal(status: int, code: str, message: str) -> Reply:
    """An error that no model and no server has made."""
    body = json.dumps({"error": {"message": message, "type": "tocsin", "code": code}}).encode()
    return Reply(status, [("content-type", "application/json")], body)
