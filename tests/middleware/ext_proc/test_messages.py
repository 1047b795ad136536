"""Claim: Envoy's messages are read and written as protobuf's own implementation reads and writes them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from benchmarks.harness.envoy_messages import ProcessingRequest, ProcessingResponse
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.ext_proc import replies, requests
from tocsin.ext_proc.requests import MessageError, read_fields, read_request

TEXT = st.text(st.characters(codec="latin-1"), max_size=20)
NAME = st.text(st.characters(codec="ascii"), max_size=20)
FIELDS = st.lists(st.tuples(NAME, TEXT), max_size=5)
PARTS = {
    "request_headers": requests.REQUEST_HEADERS,
    "response_headers": requests.RESPONSE_HEADERS,
    "request_body": requests.REQUEST_BODY,
    "response_body": requests.RESPONSE_BODY,
    "request_trailers": requests.REQUEST_TRAILERS,
    "response_trailers": requests.RESPONSE_TRAILERS,
}


def message(part: str, fields: list[tuple[str, str]], body: bytes, end: bool, **more: Any) -> Any:
    request = ProcessingRequest(**{"observability_mode": more.get("observes", False)})
    content = getattr(request, part)
    content.SetInParent()
    if part.endswith("body"):
        content.body, content.end_of_stream = body, end
    else:
        headers = content.headers if part.endswith("headers") else content.trailers
        for name, value in fields:
            headers.headers.add(key=name, raw_value=value.encode("latin-1"))
        if part.endswith("headers"):
            content.end_of_stream = end
    if more.get("modes"):
        request.protocol_config.SetInParent()
        request.protocol_config.request_body_mode, request.protocol_config.response_body_mode = more["modes"]
    if more.get("attributes"):
        attributes = request.attributes.add(key="envoy.filters.http.ext_proc")
        attributes.value.update(more["attributes"])
    return request


@given(
    st.sampled_from(list(PARTS)), FIELDS, st.binary(max_size=400), st.booleans(), st.booleans(),
    st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.dictionaries(st.text(max_size=10), st.text(max_size=200) | st.integers(0, 599), max_size=3),
)  # fmt: skip
def test_every_message_is_read(
    part: str, fields: list[tuple[str, str]], body: bytes, end: bool, observes: bool, modes: Any, attributes: Any
) -> None:
    encoded = message(
        part, fields, body, end, observes=observes, modes=modes, attributes=attributes
    ).SerializeToString()
    read = read_request(encoded)
    assert read.kind == PARTS[part]
    assert read.is_observing == observes
    assert (read.request_mode, read.response_mode) == (modes or (-1, -1))
    assert read.attributes == {name: str(value) for name, value in attributes.items()}
    assert read.end == (end and not part.endswith("trailers"))
    if part.endswith("body"):
        assert read.content == body
    else:
        assert read_fields(read.content) == fields


def seeds() -> list[bytes]:
    return [
        message(part, [("a", "b"), ("content-type", "c" * 200)], b"x" * 300, True, modes=(1, 4),
                attributes={"request.path": "/a/b", "response.code": 200}).SerializeToString()
        for part in PARTS
    ]  # fmt: skip


def compare(case: bytes) -> bool:
    """Both refuse these bytes, or both read the same; whether they were read."""
    try:
        read = read_request(case)
        fields = None if read.kind in (requests.REQUEST_BODY, requests.RESPONSE_BODY) else read_fields(read.content)
    except MessageError:
        read = None
    try:
        wanted = ProcessingRequest.FromString(case)
    except DecodeError:
        return False  # strings that are no UTF-8 are refused there, and read here
    assert read is not None, case
    part = wanted.WhichOneof("request")
    assert read.kind == (PARTS[part] if part else 0)
    assert read.is_observing == wanted.observability_mode
    if part and part.endswith("body"):
        content = getattr(wanted, part)
        assert (read.content, read.end) == (content.body, content.end_of_stream)
    elif part:
        content = getattr(wanted, part)
        headers = content.headers if part.endswith("headers") else content.trailers
        assert fields == [
            (h.key.encode().decode("latin-1"), (h.raw_value or h.value.encode()).decode("latin-1"))
            for h in headers.headers
        ]
    return True


def test_damaged_messages_are_refused_or_read_alike() -> None:
    chosen = random.Random(7)
    read = 0
    for _ in range(20_000):
        case = bytearray(chosen.choice(seeds_once))
        for _ in range(chosen.randint(1, 4)):
            at = chosen.randrange(len(case))
            what = chosen.randrange(4)
            if what == 0:
                case[at] = chosen.randrange(256)
            elif what == 1:
                del case[at : at + chosen.randint(1, 3)]
            elif what == 2:
                case[at:at] = bytes(chosen.randrange(256) for _ in range(chosen.randint(1, 3)))
            else:
                case = case[: at + 1] + bytearray(chosen.choice(seeds_once)[: chosen.randint(0, 60)])
            if not case:
                case = bytearray(b"\0")
        read += compare(bytes(case))
    assert read > 1_000  # else nothing was compared


seeds_once = seeds()


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_anything_is_refused_or_read_alike(case: bytes) -> None:
    compare(case)


@given(
    st.lists(st.tuples(st.text(st.characters(codec="ascii"), max_size=9), TEXT), max_size=4),
    st.lists(st.text(st.characters(codec="ascii"), max_size=9), max_size=3),
    st.binary(max_size=300),
    st.booleans(),
)
def test_every_reply_says_what_it_should(
    setting: list[tuple[str, str]], removing: list[str], body: bytes, end: bool
) -> None:
    def sets(mutation: Any) -> None:
        wanted = [(name, v if v.isprintable() else v.replace("\r", " ").replace("\n", " ").replace("\0", " "))
                  for name, v in setting]  # fmt: skip
        assert [(h.header.key, h.header.raw_value.decode("latin-1")) for h in mutation.set_headers] == wanted
        assert all(h.append_action == 2 and not h.header.value for h in mutation.set_headers)
        assert list(mutation.remove_headers) == removing

    headers = ProcessingResponse.FromString(replies.changed_headers(requests.RESPONSE_HEADERS, setting, removing))
    assert headers.WhichOneof("response") == "response_headers"
    sets(headers.response_headers.response.header_mutation)
    trailers = ProcessingResponse.FromString(replies.changed_trailers(requests.RESPONSE_TRAILERS, setting, removing))
    assert trailers.WhichOneof("response") == "response_trailers"
    sets(trailers.response_trailers.header_mutation)
    changed = ProcessingResponse.FromString(replies.replaced_body(requests.RESPONSE_BODY, body, setting, removing))
    mutation = changed.response_body.response.body_mutation
    assert (mutation.WhichOneof("mutation"), mutation.body) == ("body" if body else "clear_body", body)
    sets(changed.response_body.response.header_mutation)
    passing = ProcessingResponse.FromString(replies.body_with_headers(requests.REQUEST_BODY, setting, removing))
    assert passing.WhichOneof("response") == "request_body"
    assert not passing.request_body.response.HasField("body_mutation")
    sets(passing.request_body.response.header_mutation)
    streamed = ProcessingResponse.FromString(replies.streamed_body(requests.RESPONSE_BODY, body, end=end))
    piece = streamed.response_body.response.body_mutation.streamed_response
    assert (piece.body, piece.end_of_stream) == (body, end)
    instead = ProcessingResponse.FromString(
        replies.immediate(200, body, grpc_status=7, setting=setting, details="because")
    ).immediate_response
    assert (instead.status.code, instead.body, instead.grpc_status.status) == (200, body, 7)
    assert instead.details == "because"
    assert [h.header.key for h in instead.headers.set_headers] == [name for name, _ in setting]


@pytest.mark.parametrize("kind", list(PARTS))
def test_an_empty_reply_answers_its_kind(kind: str) -> None:
    assert ProcessingResponse.FromString(replies.CONTINUE[PARTS[kind]]).WhichOneof("response") == kind


def test_metadata_rides_on_a_reply() -> None:
    reply = replies.with_metadata(replies.CONTINUE[requests.RESPONSE_BODY], "tocsin", {"verdict": "{}", "ü": "ß" * 100})
    read = ProcessingResponse.FromString(reply)
    assert read.WhichOneof("response") == "response_body"
    assert dict(read.dynamic_metadata["tocsin"]) == {"verdict": "{}", "ü": "ß" * 100}
