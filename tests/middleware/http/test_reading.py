"""Claims about reading OpenAI's HTTP API: the same signals however a response is written, cut or encoded; bytes as they
came; and what cannot be read the same way by every parser is not judged."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from benchmarks.harness.chat import (
    JSON,
    SSE,
    STRANGE,
    USUAL,
    chunk,
    completion,
    config,
    delta,
    judged,
    stream,
    tokens_bundle,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tocsin.judgement.guard import Guard
from tocsin.protocols.http.document import Document
from tocsin.protocols.http.framing import ServerSentEvents
from tocsin.unscored import Unscored
from tocsin_calibration import Bundle
from tocsin_detectors import Observations


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens_bundle(tmp_path_factory.mktemp("http") / "tokens.tocsin")


@pytest.fixture(scope="module")
def guard(tokens: Path) -> Guard:
    return Guard.open(config(tokens))


def pvalue(bundle: Path, logprobs: list[float]) -> float:
    read = Bundle.read(bundle)
    alone = Observations({"token_logprobs": np.array([logprobs], np.float32)})
    return float(read.require_promise().judge(read.scorer(alone)).pvalues[0])


def test_a_completion_and_its_stream_are_judged_alike(guard: Guard, tokens: Path) -> None:
    for logprobs in ([USUAL] * 6, [STRANGE] * 4, [-0.5, -1.5, -0.1]):
        expected = pvalue(tokens, logprobs)
        for content, headers in ((completion(logprobs), JSON), (b"".join(stream(logprobs)), SSE)):
            raw, pieces = judged(guard, content, headers)
            assert raw == content
            assert [piece.verdict and list(piece.verdict.pvalues) for piece in pieces] == [[expected]]


def test_parallel_answers_are_judged_apart(guard: Guard, tokens: Path) -> None:
    answers = [USUAL] * 6, [STRANGE] * 6, [USUAL] * 4
    for content, headers in ((completion(*answers), JSON), (b"".join(stream(*answers)), SSE)):
        raw, pieces = judged(guard, content, headers)
        assert raw == content
        assert [piece.sequence for piece in pieces] == [0, 1, 2]
        assert [piece.verdict and piece.verdict.severity for piece in pieces] == [None, "warning", None]


def test_an_event_with_several_choices_is_several_messages(guard: Guard) -> None:
    events = [chunk([delta(0, "a", USUAL), delta(1, "b", STRANGE)]) for _ in range(4)]
    raw, pieces = judged(guard, b"".join(events), SSE)
    assert raw == b"".join(events)
    assert [piece.verdict and piece.verdict.severity for piece in pieces] == [None, "warning"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_is_read_however_it_is_cut_and_written(guard: Guard, size: int, end: bytes) -> None:
    written = [event.replace(b"\n", end) for event in stream([USUAL] * 3 + [STRANGE] * 3)]
    content = b"\xef\xbb\xbf: hello" + end + end + (b": ping" + end + end).join(written)
    raw, pieces = judged(guard, content, SSE, size=size)
    assert raw == content
    assert [piece.verdict and piece.verdict.unscored for piece in pieces] == [None]


def test_data_in_several_lines_and_without_a_space_is_one_document(guard: Guard, tokens: Path) -> None:
    event = (
        chunk([delta(0, "a", -0.7)])
        .replace(b"data: ", b"event: message\ndata:")
        .replace(b',"model"', b',\ndata:"model"')
    )
    _, pieces = judged(guard, event, SSE)
    assert [piece.verdict and list(piece.verdict.pvalues) for piece in pieces] == [[pvalue(tokens, [-0.7])]]


@given(st.binary(max_size=300), st.integers(1, 50))
@settings(max_examples=300)
def test_events_are_all_of_the_bytes(content: bytes, size: int) -> None:
    framing = ServerSentEvents(100)
    events = [event for at in range(0, len(content), size) for event in framing.feed(content[at : at + size])]
    assert b"".join(event.raw for event in [*events, *framing.end()]) == content


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_encoded_bodies_are_read_and_pass_as_they_came(guard: Guard, tokens: Path, encoding: str) -> None:
    def encode(content: bytes) -> bytes:
        if encoding == "br":
            return bytes(pytest.importorskip("brotli").compress(content))
        if encoding == "zstd":
            return bytes(pytest.importorskip("zstandard").compress(content))
        return gzip.compress(content) if encoding == "gzip" else zlib.compress(content)

    for content, headers in ((completion([-0.7] * 3), JSON), (b"".join(stream([-0.7] * 3)), SSE)):
        for size in (0, 5):
            encoded = encode(content)
            raw, pieces = judged(guard, encoded, {**headers, "content-encoding": encoding}, size=size)
            assert raw == encoded
            assert [piece.verdict and list(piece.verdict.pvalues) for piece in pieces] == [[pvalue(tokens, [-0.7] * 3)]]
        raw, pieces = judged(guard, encoded[:-3], {**headers, "content-encoding": encoding})
        assert "undecodable" in [piece.verdict and piece.verdict.unscored for piece in pieces]
        assert raw == encoded[:-3]


BODY = completion([USUAL] * 6)
OTHER_CHOICES = b'"choices":[{"index":0,"logprobs":{"content":[{"logprob":-9}]}}],"choices":'
ESCAPED = b'"l\\u006fgprob":-9,"logprob":-0.3'
UNREADABLE = {
    "deep": (b'{"choices":' + b"[" * 100_000, "undecodable"),
    "deep beside": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "undecodable"),
    "number out of range": (BODY.replace(b"-0.3", b"-1e999"), "undecodable"),
    "not a number": (BODY.replace(b"-0.3", b"NaN"), "undecodable"),
    "infinite as float32": (BODY.replace(b"-0.3", b"-1e300"), "not_finite"),
    "text for numbers": (BODY.replace(b'"logprob":-0.3', b'"logprob":"-0.3"'), "undecodable"),
    "null for a number": (BODY.replace(b'"logprob":-0.3', b'"logprob":null', 1), "shape"),
    "cut": (BODY[:-5], "undecodable"),
    "no JSON": (b"<html>", "undecodable"),
    "nothing": (b"", "no_response"),
    "UTF-16": (BODY.decode().encode("utf-16"), "undecodable"),
    "invalid UTF-8 in what is read": (BODY.replace(b'"model":"m"', b'"model":"\xff"'), "undecodable"),
    "an array": (b"[1]", "undecodable"),
    "a member twice": (BODY.replace(b'"logprob":-0.3', b'"logprob":-9,"logprob":-0.3', 1), "undecodable"),
    "choices twice": (BODY.replace(b'"choices":', OTHER_CHOICES), "undecodable"),
    "model twice": (BODY.replace(b'"model":"m"', b'"model":"other","model":"m"'), "undecodable"),
    "a member twice, once escaped": (BODY.replace(b'"logprob":-0.3', ESCAPED, 1), "undecodable"),
    "index twice": (completion([USUAL] * 6, [USUAL] * 6).replace(b'"index":1', b'"index":0,"index":1'), "undecodable"),
    "without log-probabilities": (completion([USUAL] * 6, has_logprobs=False), "missing_signal"),
    "of a stranger": (BODY.replace(b'"model":"m"', b'"model":"x"'), "unknown_model"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_alike_by_everybody_is_counted(guard: Guard, case: str) -> None:
    content, reason = UNREADABLE[case]
    raw, pieces = judged(guard, content, JSON)
    assert raw == content
    assert [piece.verdict and piece.verdict.unscored for piece in pieces] == [reason], case
    if content:
        raw, pieces = judged(guard, b"data: " + content + b"\n\n", SSE)
        assert [piece.verdict and piece.verdict.unscored for piece in pieces][:1] == [reason], case


def written_object(members: list[tuple[str, str]]) -> str:
    """A JSON object of these members, as they are written."""
    return "{" + ",".join(f"{name}:{value}" for name, value in members) + "}"


NAMES = st.sampled_from(['"logprob"', '"l\\u006fgprob"', '"other"', '"top"'])
VALUES = st.recursive(
    st.sampled_from(["1", "-0.5", "null", '"logprob"', '"logpro\\u0062"', '"x"', '"a\\n"']),
    lambda values: (
        st.lists(st.tuples(NAMES, values), max_size=3).map(written_object)
        | st.lists(values, max_size=2).map(lambda items: f"[{','.join(items)}]")
    ),
    max_leaves=6,
)


@given(st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=4).map(written_object), max_size=4), VALUES)
@example(['{"logprob":1,"logprob":2}'], '"logpro\\u0062"')  # read as text, which looks like the member that is missing
@example(['{"logprob":1}'], '"logprob"')
@example(['{"logprob":1}'], "9" * 30)
def test_a_second_value_beside_the_one_that_was_read_is_found_wherever_names_occur(items: list[str], text: str) -> None:
    document = Document("response")
    document.place("choices[].logprob", "number")
    document.place("model", "text")
    content = f'{{"model":{text},"choices":[{",".join(items)}]}}'.encode()
    try:
        decoded = document.decode(content)
    except Unscored:
        return

    def has_second(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal is_double
        is_double = is_double or [name for name, _ in pairs].count("logprob") > 1
        return dict(pairs)

    is_double = False
    for choice in items:
        json.loads(choice, object_pairs_hook=has_second)
    if isinstance(decoded, tuple):  # scanned: a second member may be where nothing is read
        last, first = json.loads(content), json.loads(content, object_pairs_hook=lambda pairs: dict(pairs[::-1]))
        assert last["model"] == first["model"]
        assert [item.get("logprob") for item in last["choices"]] == [item.get("logprob") for item in first["choices"]]
    elif is_double:
        with pytest.raises(Unscored, match="two members"):
            document.require_single(content, decoded, ["logprob"])
    else:
        document.require_single(content, decoded, ["logprob"])


@given(st.binary(max_size=400) | st.text(max_size=300).map(str.encode))
@settings(max_examples=200)
def test_nothing_raises(guard: Guard, content: bytes) -> None:
    for headers in (JSON, SSE, {"content-type": "application/x-ndjson"}, {"content-type": "text/html"}):
        raw, _ = judged(guard, content, headers)
        assert raw == content


def test_a_bom_is_no_part_of_a_document(guard: Guard) -> None:
    _, pieces = judged(guard, b"\xef\xbb\xbf" + BODY, JSON)
    assert [piece.verdict and piece.verdict.unscored for piece in pieces] == [None]


def test_other_content_types_are_counted(guard: Guard) -> None:
    for content_type in ("text/html", "application/octet-stream", "application/json; charset=utf-16"):
        raw, pieces = judged(guard, BODY, {"content-type": content_type})
        assert (raw, [piece.verdict and piece.verdict.unscored for piece in pieces]) == (BODY, ["content_type"])
    raw, pieces = judged(guard, BODY, {"content-type": "application/json", "content-encoding": "compress"})
    assert [piece.verdict and piece.verdict.unscored for piece in pieces] == ["encoding"]


def test_large_bodies_and_events_pass_unread(tokens: Path) -> None:
    small = Guard.open(config(tokens, max_message=1024))
    content = completion([USUAL] * 60)
    raw, pieces = judged(small, content, JSON, size=100)
    assert (raw, [piece.verdict and piece.verdict.unscored for piece in pieces]) == (content, ["too_large"])
    events = [chunk([delta(0, "a" * 5000, USUAL)]), chunk([delta(0, "a", USUAL)])]
    raw, pieces = judged(small, b"".join(events), SSE, size=100)
    assert raw == b"".join(events)
    assert [piece.verdict and piece.verdict.unscored for piece in pieces] == ["too_large", None]


def test_tool_calls_usage_and_empty_messages_pass_uncounted(guard: Guard) -> None:
    events = stream([USUAL] * 4)
    usage = chunk([], usage={"prompt_tokens": 1})
    _, pieces = judged(guard, b"".join([*events[:-1], usage, events[-1]]), SSE)
    assert [piece.verdict and piece.verdict.unscored for piece in pieces] == [None]
    call = {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}}
    _, pieces = judged(guard, chunk([call]), SSE)
    assert [piece.verdict and piece.verdict.unscored for piece in pieces] == ["missing_signal"]


def test_a_refusal_has_log_probabilities_too(guard: Guard, tokens: Path) -> None:
    body = json.loads(completion([-0.7] * 3))
    body["choices"][0]["logprobs"] = {"content": None, "refusal": body["choices"][0]["logprobs"]["content"]}
    _, pieces = judged(guard, json.dumps(body).encode(), JSON)
    assert [piece.verdict and list(piece.verdict.pvalues) for piece in pieces] == [[pvalue(tokens, [-0.7] * 3)]]
