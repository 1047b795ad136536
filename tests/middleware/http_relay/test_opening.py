"""Claims: requests of one connection that begin alike share what their heads say, until the configuration changes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.chat import CHAT, config

from tocsin.configuration.config import Config
from tocsin.http_relay.context import ExchangeOpener, HttpContext
from tocsin.http_relay.heads import Http1Request, read_request
from tocsin.http_relay.incoming import LONGEST_KEPT_HEAD
from tocsin.judgement.guard import Guard
from tocsin.relay.context import RelayContext


def head_of(path: str, **fields: str) -> Http1Request:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "x", **fields}.items())
    return read_request(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode())


def opener_of(guard: Guard, configuration: Config) -> ExchangeOpener:
    return ExchangeOpener(HttpContext(RelayContext(configuration, guard)))


def test_each_request_of_a_head_has_an_exchange_of_its_own(tokens: Path) -> None:
    guard = Guard.open(configuration := config(tokens))
    opener, head = opener_of(guard, configuration), head_of(CHAT)
    first, second = opener.open(head, "one", ""), opener.open(head, "one", "m")
    assert first is not None and second is not None and first.call is not second.call
    assert (first.call.hint, second.call.hint) == ("", "m")
    assert opener.open(head_of("/other"), "one", "") is None
    assert opener.open(head, "one", "") is not None


def test_metadata_are_those_of_the_request_itself(tokens: Path) -> None:
    guard = Guard.open(configuration := config(tokens))
    opener = opener_of(guard, configuration)
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with_trace, without = opener.open(head_of(CHAT, traceparent=trace), "", ""), opener.open(head_of(CHAT), "", "")
    assert with_trace is not None and with_trace.call.trace == "a" * 32
    assert without is not None and without.call.trace == ""


def test_another_configuration_counts_from_the_next_request_on(tokens: Path) -> None:
    guard = Guard.open(configuration := config(tokens))
    opener, head = opener_of(guard, configuration), head_of(CHAT)
    before = opener.open(head, "", "")
    another = Guard.open(config(tokens))
    guard.reconfigure(another.config, another.models)
    after = opener.open(head, "", "")
    assert before is not None and after is not None
    assert after.method is guard.methods[f"POST {CHAT}"] is not before.method
    guard.reconfigure(another.config, {})
    assert opener.open(head, "", "") is None


def test_a_long_head_is_not_kept(tokens: Path) -> None:
    guard = Guard.open(configuration := config(tokens))
    opener, head = opener_of(guard, configuration), head_of(CHAT, long="x" * LONGEST_KEPT_HEAD)
    assert opener.open(head, "", "") is not None
    assert opener._head is None
