"""Bodies and streams of OpenAI's HTTP API, as servers write them, and bundles that judge their tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tocsin.configuration.config import Config
from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import Exchanges
from tocsin.exchange.treatment import Segment
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin_calibration import Bundle, calibrate, calibrate_sessions
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

CHAT = "/v1/chat/completions"
USUAL, STRANGE = -0.3, -6.0  # log-probabilities of tokens
JSON, SSE = {"content-type": "application/json"}, {"content-type": "text/event-stream; charset=utf-8"}


def tokens_bundle(path: Path) -> Path:
    """Judges the tokens of a whole answer by their mean surprisal."""
    logprobs = np.log(np.random.default_rng(8).uniform(0.3, 1, (300, 6))).astype(np.float32)
    safe = Observations({"token_logprobs": logprobs})
    scorer = compile([parse("mean_surprisal")], fit_on=safe)
    Bundle(scorer, calibrate(scorer(safe), {"warning": 0.1}, detectors=scorer.detectors), "m").write(path)
    return path


def each_token_bundle(path: Path) -> Path:
    """Judges each token, with a promise for the stream."""
    logprobs = np.log(np.random.default_rng(8).uniform(0.3, 1, (400, 1))).astype(np.float32)
    safe = Observations({"token_logprobs": logprobs})
    scorer = compile([parse("max_surprisal")], fit_on=safe)
    promise = calibrate_sessions(np.split(scorer(safe), 100), {"warning": 0.1}, detectors=scorer.detectors)
    Bundle(scorer, promise, "m").write(path)
    return path


def config(bundle: Path | None, mode: str = "annotate", **more: Any) -> Config:
    model = {"protocol": "openai", "bundle": bundle}
    top = {key: more.pop(key) for key in ("fail", "max_message", "protocols") if key in more}
    return Config(mode=mode, models={"m": {**model, **more}}, **top)


def token(text: str, logprob: float, alternatives: int = 0) -> dict[str, Any]:
    top = [{"token": text, "logprob": logprob - n, "bytes": list(text.encode())} for n in range(alternatives)]
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": top}


def completion(*sequences: Sequence[float], has_logprobs: bool = True, **more: Any) -> bytes:
    """A chat completion with a choice for each sequence of log-probabilities."""
    choices = []
    for index, logprobs in enumerate(sequences):
        content = [token(f" w{at}", logprob, 2) for at, logprob in enumerate(logprobs)]
        message = {"role": "assistant", "content": "".join(part["token"] for part in content), "refusal": None}
        reported = {"content": content, "refusal": None} if has_logprobs else None
        choices.append({"index": index, "message": message, "logprobs": reported, "finish_reason": "stop"})
    usage = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return json.dumps({**body, "usage": usage, **more}, separators=(",", ":"), ensure_ascii=False).encode()


def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps({**body, **more}, separators=(",", ":")).encode() + b"\n\n"


def delta(index: int, text: str, logprob: float | None) -> dict[str, Any]:
    logprobs = None if logprob is None else {"content": [token(text, logprob, 2)]}
    return {"index": index, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}


def stream(*sequences: Sequence[float], has_logprobs: bool = True) -> list[bytes]:
    """The events of a stream with a sequence for each of log-probabilities, interleaved as servers do."""
    events = [
        chunk([{"index": n, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}])
        for n in range(len(sequences))
    ]
    for at in range(max(map(len, sequences))):
        for index, logprobs in enumerate(sequences):
            if at < len(logprobs):
                events.append(chunk([delta(index, f" w{at}", logprobs[at] if has_logprobs else None)]))
    for n in range(len(sequences)):
        events.append(chunk([{"index": n, "delta": {}, "logprobs": None, "finish_reason": "stop"}]))
    return [*events, b"data: [DONE]\n\n"]


def exchange(guard: Guard, body: bytes = b'{"model":"m"}', **headers: str) -> Exchange:
    opened = Exchanges(guard).open("POST", CHAT, {"content-type": "application/json", **headers}.items())
    assert opened is not None
    opened.on_request(body)
    return opened


def events_and_calls(opened: Exchange, segments: Sequence[Segment]) -> tuple[bytes, list[Call]]:
    """The bytes that an exchange passes on, and the calls that are judged."""
    call, pieces = opened.call, []
    for segment in segments:
        for content, fault in segment.messages:
            piece = call.on_response_message(content, fault)
            pieces += [] if piece is None else [piece]
        if segment.is_done:
            pieces += call.ended()
    return b"".join([segment.raw for segment in segments]), pieces


def judged(guard: Guard, content: bytes, headers: dict[str, str], *, size: int = 0) -> tuple[bytes, list[Call]]:
    """What goes on of a response that comes in parts of a size, and its judged pieces."""
    opened = exchange(guard)
    opened.on_response_headers(200, headers.items())
    segments: list[Segment] = []
    for start in range(0, len(content), size or max(1, len(content))):
        segments += opened.on_response_chunk(content[start : start + (size or len(content))])
    segments += opened.on_response_end()
    raw, pieces = events_and_calls(opened, segments)
    pieces += opened.call.ended()
    guard.judge(pieces)
    return raw, pieces
