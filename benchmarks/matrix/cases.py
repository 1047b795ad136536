"""Endpoints as their servers answer them: streaming or not, with several answers, with tools, in each coding."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import zstandard

from benchmarks.harness.chat import STRANGE, USUAL, chunk, completion, stream, token, tokens_bundle
from tocsin.configuration.config import Config
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

WIDTH, TOKENS = 4, 6  # of an embedding, and of an answer
DOCUMENT, EVENTS, LINES = "document", "events", "lines"
TYPES = {DOCUMENT: "application/json", EVENTS: "text/event-stream", LINES: "application/x-ndjson"}

Encode = Callable[[bytes], bytes]
ENCODINGS: dict[str, Encode] = {
    "identity": lambda body: body,
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "x-unknown": lambda body: body[::-1],
}
DECODE: dict[str, Encode] = {
    "identity": lambda body: body,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
    "x-unknown": lambda body: body[::-1],
}


@dataclass(frozen=True)
class Case:
    """A kind of response. `body(strange)` is what the server answers, an ordinary or a strange one."""

    protocol: str
    path: str
    shape: str
    n: int
    has_tools: bool
    body: Callable[[bool], bytes]
    reads: str = "tokens"
    note: str = ""
    signals: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> tuple[str, str, str, str]:
        """The endpoint, how it streams, the number of answers or rows, and whether it calls tools."""
        endpoint = f"`{self.protocol}` POST {self.path}" + (f", {self.note}" if self.note else "")
        return (
            endpoint,
            {DOCUMENT: "no", EVENTS: "events", LINES: "lines"}[self.shape],
            str(self.n),
            ("yes" if self.has_tools else "no"),
        )

    def config(self, bundles: Mapping[str, Path], mode: str) -> Config:
        """Guarded with what withholds a strange answer. Mode `closed` is enforce with fail: closed."""
        model: dict[str, Any] = {"protocol": self.protocol, "bundle": bundles[self.reads]}
        if self.signals:
            model["signals"] = dict(self.signals)
        is_enforcing = mode in ("enforce", "closed")
        return Config(
            mode="enforce" if is_enforcing else mode,
            fail="closed" if mode == "closed" else "open",
            scoring_budget="60s",
            models={"m": model | ({"on_alarm": {"warning": "block"}} if is_enforcing else {})},
        )


def bundles(folder: Path) -> dict[str, Path]:
    """A bundle for tokens of answers, and one for embeddings."""
    rows = np.random.default_rng(3).normal(0, 1, (400, WIDTH)).astype(np.float32)
    safe = Observations({"embedding": rows})
    scorer = compile([parse("mahalanobis")], fit_on=safe)
    embedding = folder / "embedding.tocsin"
    Bundle(scorer, calibrate(scorer(safe), {"warning": 0.01}, detectors=scorer.detectors), "m").write(embedding)
    return {"tokens": tokens_bundle(folder / "tokens.tocsin"), "embedding": embedding}


def _logprob(strange: bool) -> float:
    return STRANGE if strange else USUAL


def _sequences(n: int, strange: bool) -> list[list[float]]:
    """The first answer is ordinary where there are several: one strange answer among them is enough."""
    return [[USUAL] * TOKENS] * (n - 1) + [[_logprob(strange)] * TOKENS]


def _rows(n: int, strange: bool) -> list[list[float]]:
    return [[0.1 * at for at in range(WIDTH)]] * (n - 1) + [[50.0 if strange else 0.2] * WIDTH]


def _dumps(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _events(*messages: Any, done: bool = False) -> bytes:
    parts = []
    for message in messages:
        name = f"event: {message['type']}\n".encode() if "type" in message else b""
        parts.append(name + b"data: " + _dumps(message) + b"\n\n")
    return b"".join([*parts, b"data: [DONE]\n\n" if done else b""])


def _lines(*messages: Any) -> bytes:
    return b"".join(_dumps(message) + b"\n" for message in messages)


def _chat(n: int, *, has_logprobs: bool = True) -> Callable[[bool], bytes]:
    return lambda strange: completion(*_sequences(n, strange), has_logprobs=has_logprobs)


def _chat_stream(n: int, *, has_logprobs: bool = True) -> Callable[[bool], bytes]:
    return lambda strange: b"".join(stream(*_sequences(n, strange), has_logprobs=has_logprobs))


def _tool(at: int) -> list[dict[str, Any]]:
    call = {"name": "find", "arguments": ""} if not at else {"arguments": f'"{at}"'}
    return [{"index": 0, "id": "call_1", "type": "function", "function": call}]


def _chat_tools(strange: bool) -> bytes:
    content = [token(f" w{at}", _logprob(strange), 2) for at in range(TOKENS)]
    message = {"role": "assistant", "content": None, "tool_calls": _tool(0)}
    choice = {"index": 0, "message": message, "logprobs": {"content": content}, "finish_reason": "tool_calls"}
    return _dumps({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def _chat_tools_stream(strange: bool) -> bytes:
    events = [
        chunk([{"index": 0, "delta": {"tool_calls": _tool(at)}, "finish_reason": None,
                "logprobs": {"content": [token(f" w{at}", _logprob(strange), 2)]}}])
        for at in range(TOKENS)
    ]  # fmt: skip
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}
    return b"".join([*events, chunk([last]), b"data: [DONE]\n\n"])


def _completions(n: int) -> Callable[[bool], bytes]:
    def body(strange: bool) -> bytes:
        choices = [
            {"index": at, "text": " w" * TOKENS, "logprobs": {"token_logprobs": logprobs}, "finish_reason": "stop"}
            for at, logprobs in enumerate(_sequences(n, strange))
        ]
        return _dumps({"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": choices})

    return body


def _completions_stream(n: int) -> Callable[[bool], bytes]:
    def body(strange: bool) -> bytes:
        messages = [
            {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [
                {"index": index, "text": " w", "logprobs": {"token_logprobs": [logprobs[at]]},
                 "finish_reason": "stop" if at == TOKENS - 1 else None}]}
            for at in range(TOKENS) for index, logprobs in enumerate(_sequences(n, strange))
        ]  # fmt: skip
        return _events(*messages, done=True)

    return body


def _responses(strange: bool) -> bytes:
    content = {"type": "output_text", "text": " w" * TOKENS, "logprobs": _tokens(strange)}
    output = [{"type": "message", "content": [content]}]
    return _dumps({"id": "r", "object": "response", "model": "m", "output": output})


def _responses_stream(strange: bool) -> bytes:
    answer = json.loads(_responses(strange))
    deltas = [
        {"type": "response.output_text.delta", "delta": " w", "logprobs": [logprob]} for logprob in _tokens(strange)
    ]
    created = {"type": "response.created", "response": {"id": "r", "model": "m", "output": []}}
    return _events(created, *deltas, {"type": "response.completed", "response": answer})


def _tokens(strange: bool) -> list[dict[str, Any]]:
    return [token(f" w{at}", _logprob(strange), 2) for at in range(TOKENS)]


def _messages(has_tools: bool) -> Callable[[bool], bytes]:
    kind = {"type": "tool_use", "id": "t", "name": "find", "input": {}} if has_tools else {"type": "text", "text": " w"}
    return lambda strange: _dumps(
        {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [kind], "stop_reason": "end_turn",
         "logprobs": [_logprob(strange)] * TOKENS}
    )  # fmt: skip


def _messages_stream(has_tools: bool) -> Callable[[bool], bytes]:
    kind = "input_json_delta" if has_tools else "text_delta"
    key = "partial_json" if has_tools else "text"

    def body(strange: bool) -> bytes:
        deltas = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: " w"},
             "logprobs": [_logprob(strange)]}
            for _ in range(TOKENS)
        ]  # fmt: skip
        delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        start = {"type": "message_start", "message": {"id": "m", "model": "m"}}
        return _events(start, *deltas, delta, {"type": "message_stop"})

    return body


def _ollama(key: str, shape: str) -> Callable[[bool], bytes]:
    def text(content: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": content}} if key == "chat" else {"response": content}

    def body(strange: bool) -> bytes:
        if shape == DOCUMENT:
            return _dumps({"model": "m", **text(" w" * TOKENS), "logprobs": _tokens(strange), "done": True})
        parts = [{"model": "m", **text(" w"), "logprobs": [logprob], "done": False} for logprob in _tokens(strange)]
        return _lines(*parts, {"model": "m", **text(""), "done": True})

    return body


def _infer(strange: bool) -> bytes:
    data = [value for row in _rows(2, strange) for value in row]
    output = {"name": "embedding", "shape": [2, WIDTH], "datatype": "FP32", "data": data}
    return _dumps({"model_name": "m", "outputs": [output]})


CHAT, ANTHROPIC = "/v1/chat/completions", {"token_logprobs": "response.logprobs"}
EMBEDDING = "embedding"

CASES: list[Case] = [
    *(Case("openai", CHAT, DOCUMENT, n, False, _chat(n)) for n in (1, 2)),
    *(Case("openai", CHAT, EVENTS, n, False, _chat_stream(n)) for n in (1, 2)),
    Case("openai", CHAT, DOCUMENT, 1, True, _chat_tools),
    Case("openai", CHAT, EVENTS, 1, True, _chat_tools_stream),
    Case("openai", CHAT, DOCUMENT, 1, False, _chat(1, has_logprobs=False), note="without log-probabilities"),
    Case("openai", CHAT, EVENTS, 1, False, _chat_stream(1, has_logprobs=False), note="without log-probabilities"),
    *(Case("openai", "/v1/completions", DOCUMENT, n, False, _completions(n)) for n in (1, 2)),
    *(Case("openai", "/v1/completions", EVENTS, n, False, _completions_stream(n)) for n in (1, 2)),
    Case("openai", "/v1/responses", DOCUMENT, 1, False, _responses),
    Case("openai", "/v1/responses", EVENTS, 1, False, _responses_stream),
    *(
        Case("openai", "/v1/embeddings", DOCUMENT, n, False, lambda strange, n=n: _dumps(  # type: ignore[misc]
            {"model": "m", "data": [{"index": at, "embedding": row} for at, row in enumerate(_rows(n, strange))]}),
            EMBEDDING) for n in (1, 2)
    ),
    *(
        Case("anthropic", "/v1/messages", shape, 1, has_tools, body(has_tools), signals=ANTHROPIC)
        for shape, body in ((DOCUMENT, _messages), (EVENTS, _messages_stream)) for has_tools in (False, True)
    ),
    *(
        Case("ollama", f"/api/{key}", shape, 1, False, _ollama(key, shape))
        for key in ("chat", "generate") for shape in (DOCUMENT, LINES)
    ),
    Case("ollama", "/api/embed", DOCUMENT, 2, False,
         lambda strange: _dumps({"model": "m", "embeddings": _rows(2, strange)}), EMBEDDING),
    Case("oip_http", "/v2/models/m/infer", DOCUMENT, 2, False, _infer, EMBEDDING,
         signals={"embedding": "response.outputs.embedding"}),
    Case("tfserving_http", "/v1/models/m:predict", DOCUMENT, 2, False,
         lambda strange: _dumps({"predictions": _rows(2, strange)}), EMBEDDING,
         signals={"embedding": "response.predictions[*]"}),
    Case("tei_http", "/embed", DOCUMENT, 2, False, lambda strange: _dumps(_rows(2, strange)), EMBEDDING),
]  # fmt: skip
