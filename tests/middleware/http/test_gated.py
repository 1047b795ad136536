"""Claim: what of a response waits for its rest is charged to its connection, and given back once it goes on or ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.harness.chat import CHAT, JSON, SSE, USUAL, completion, config, stream, tokens_bundle
from benchmarks.harness.parts import inline_guard

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.gated import GatedResponse
from tocsin.exchange.opening import Exchanges
from tocsin.exchange.treatment import Segment
from tocsin.judgement.another_response import with_another_response
from tocsin.memory import MemoryAccount, MemoryBudget


def held_exchange(folder: Path, headers: dict[str, str]) -> tuple[Exchange, GatedResponse, MemoryAccount]:
    """An exchange whose response has begun and is held, and the account that what waits is charged to."""
    guard = inline_guard(config(tokens_bundle(folder / "t.tocsin"), "enforce"))
    exchange = Exchanges(guard).open("POST", CHAT, JSON.items())
    assert exchange is not None
    exchange.on_request(b"{}")
    memory = MemoryBudget(1 << 20).open(lambda: None)
    gated = GatedResponse(exchange, memory, lambda seconds: None, holds=True, annotates=True, can_retry=False)
    gated.begin(200, headers.items())
    return exchange, gated, memory


@pytest.mark.parametrize(("headers", "body"), [(JSON, completion([USUAL] * 4)), (SSE, b"".join(stream([USUAL])[:1]))])
def test_what_is_not_complete_is_charged(headers: dict[str, str], body: bytes, tmp_path: Path) -> None:
    exchange, gated, memory = held_exchange(tmp_path, headers)
    for part in (body[:7], body[7:40]):
        gated.take(exchange.on_response_chunk(part))
    assert memory.used == 40
    gated.drop()
    assert memory.used == 0


def test_messages_that_wait_for_others_are_not_kept_once_nothing_of_their_response_goes_out(tmp_path: Path) -> None:
    exchange, gated, memory = held_exchange(tmp_path, SSE)
    gated.take(exchange.on_response_chunk(b"".join(stream([USUAL] * 4)[:-1])))
    assert exchange.call.kept_bytes > 0 and memory.used > 0
    gated.drop()
    assert memory.used == 0 and exchange.call.kept_bytes == 0 and not exchange.call.ended()


def test_another_response_that_is_refused_changes_nothing_about_the_one_that_comes(tmp_path: Path) -> None:
    exchange, gated, _ = held_exchange(tmp_path, SSE)
    first, *others = stream([USUAL] * 4)[:-1]
    gated.take(exchange.on_response_chunk(first))
    assert exchange.messages_of(200, list(JSON.items()), completion([USUAL] * 4)) is None
    gated.take(exchange.on_response_chunk(b"".join(others)))
    assert not exchange.call.pending  # type: ignore[attr-defined]
    (piece,) = exchange.call.ended()
    assert len(piece.earlier) == len(others) and exchange.call.ends_by_ending


def test_answers_of_a_document_are_judged_each_by_itself_those_of_a_retry_as_well(tmp_path: Path) -> None:
    exchange, _, _ = held_exchange(tmp_path, JSON)
    choices = [{"message": {"content": text}, "logprobs": {"content": [{"logprob": -1.0}]}} for text in "ab"]
    body = json.dumps({"model": "m", "choices": choices}).encode()  # without an index
    contents = [content for segment in all_segments(exchange, body) for content, _ in segment.messages]
    judged = [piece for content in contents if (piece := exchange.call.on_response_message(content)) is not None]
    answer = exchange.messages_of(200, list(JSON.items()), body)
    assert answer is not None
    _, again = with_another_response(exchange.call, b"{}", answer[0])
    assert len(judged) == len(again) == 2 and not exchange.call.ended()


def all_segments(exchange: Exchange, body: bytes) -> list[Segment]:
    return exchange.on_response_chunk(body) + exchange.on_response_end()
