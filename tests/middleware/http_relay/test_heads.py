"""Claims: what a line of a head says is kept for the next such line, but no secret, and not without end; a head is
changed without touching its other bytes; one like the head before it is read as that was, but by what counts now."""

from __future__ import annotations

import pytest

from tocsin.http_relay import heads
from tocsin.http_relay.heads import HeadError, read_request, read_response
from tocsin.http_relay.incoming import CallerRequests, UpstreamResponses


@pytest.mark.parametrize("secret", ["Authorization: Bearer sk-1", "Cookie: session=1", "X-Api-Key: sk-1"])
def test_what_a_line_says_is_kept_but_no_secret(secret: str) -> None:
    lines = f"Host: kept.example\r\n{secret}\r\nX-Long: {'x' * 100}\r\n"
    read_request(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
    assert heads._readings["Host: kept.example"] == ("host", "kept.example")
    assert not any(line in heads._readings for line in lines.split("\r\n")[1:])


def test_a_line_is_read_alike_the_second_time_and_lines_are_not_kept_without_end() -> None:
    for _ in range(2):
        for at in range(heads.MOST_KEPT + 10):
            head = read_request(f"GET / HTTP/1.1\r\nHost: x\r\nX-Number:  {at}\t\r\n\r\n".encode())
            assert head.fields == [("host", "x"), ("x-number", str(at))]
            assert len(heads._readings) <= heads.MOST_KEPT


@pytest.mark.parametrize("length", ["²", "1²", "٣".encode().decode("latin-1"), "1" * 19, "1 1", "-1"])
def test_a_length_is_of_ascii_digits(length: str) -> None:
    with pytest.raises(HeadError):
        read_response(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"), "POST")


@pytest.mark.parametrize(
    ("value", "keeps"), [("keep-alive", True), ("close", False), ("Keep-Alive, Close", False), (" CLOSE ", False)]
)
def test_a_connection_is_kept_as_the_head_says(value: str, keeps: bool) -> None:
    raw = f"HTTP/1.1 200 OK\r\nConnection: {value}\r\nContent-Length: 0\r\n\r\n"
    assert read_response(raw.encode(), "POST").keeps_alive is keeps


def test_a_head_gets_fields_at_its_end_and_loses_others() -> None:
    head = read_response(b"HTTP/1.1 200  Fine \r\nA: 1\r\nb:2 \r\nA:3\r\n\r\n", "HEAD")
    added = b"HTTP/1.1 200  Fine \r\nA: 1\r\nb:2 \r\nA:3\r\nc: 4\r\nd: \xe9\r\n\r\n"
    assert head.changed((), [("c", "4"), ("d", "é")]) == added
    assert head.changed({"a"}, [("c", "4")]) == b"HTTP/1.1 200  Fine \r\nb:2 \r\nc: 4\r\n\r\n"
    assert head.changed({"a", "b"}) == b"HTTP/1.1 200  Fine \r\n\r\n"
    assert head.changed() == head.raw


def test_a_request_like_the_one_before_is_read_by_what_counts_now() -> None:
    head = b"GET /a HTTP/1.1\r\nHost: x\r\nx_user: 1\r\n\r\n"
    requests, names = CallerRequests(), frozenset({"x_user"})
    requests.received = head + head + b"body"
    first = requests.head(names, 1_000)
    assert first is not None and requests.head(names, 1_000) is first and requests.received == b"body"
    requests.received = head[:-2]
    assert requests.head(names, 1_000) is None
    requests.received = head.replace(b"/a", b"/b")
    assert (other := requests.head(names, 1_000)) is not None and other.path == "/b"
    requests.received = head + head
    assert requests.head(names, 1_000) is not None
    with pytest.raises(HeadError) as refused:
        requests.head(names, len(head) - 1)
    assert refused.value.status == 431
    with pytest.raises(HeadError, match="x_user"):  # names are others since the configuration was read anew
        requests.head(frozenset({"x-user"}), 1_000)


def test_a_response_like_the_one_before_is_read_by_the_verb_of_its_own_request() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    responses = UpstreamResponses()
    responses.add(head + b"{}" + head + head[:-1])
    first = responses.head("POST", 1_000, upgrades=False)
    assert first is not None and first.length == 2
    responses.skip(2)
    assert (second := responses.head("HEAD", 1_000, upgrades=False)) is not None and second.length == 0
    assert responses.head("HEAD", 1_000, upgrades=False) is None
    responses.add(b"\n")
    assert responses.head("HEAD", 1_000, upgrades=False) is second
    assert responses.size == 0


def test_interim_responses_alike_are_counted_all() -> None:
    responses = UpstreamResponses()
    responses.add(b"HTTP/1.1 102 Processing\r\n\r\n" * 101)
    for _ in range(100):
        assert responses.head("POST", 1_000, upgrades=False) is not None
    with pytest.raises(HeadError, match="interim"):
        responses.head("POST", 1_000, upgrades=False)
