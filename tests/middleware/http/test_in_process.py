"""Claims about HTTP in process: a guarded ASGI application and guarded httpx transports, sync and async, decide and act
alike, in front of a real server and the real client of OpenAI."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pyarrow.parquet as pq
import pytest
from benchmarks.harness.chat import CHAT, STRANGE, USUAL, config, each_token_bundle, stream, tokens_bundle
from benchmarks.harness.envoy import attached_envoy
from benchmarks.harness.openai_server import ANSWERS, Middleware, OpenAIServer, serving
from benchmarks.harness.parts import running

import tocsin
from tocsin.asgi import GuardMiddleware
from tocsin.configuration.fields import Address
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.verdict import METADATA_KEY

POSITIONS = ["asgi", "transport", "async transport", "envoy"]
SERVED = ("asgi", "envoy")  # where callers see what others judged
TIMEOUT = 60.0
PLAIN: dict[str, Any] = {"verify": False}  # a context of TLS, which plain HTTP never uses, costs 60 ms to make
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens_bundle(tmp_path_factory.mktemp("http") / "tokens.tocsin")


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return each_token_bundle(tmp_path_factory.mktemp("http") / "each.tocsin")


class Received(NamedTuple):
    """What a caller sees."""

    status: int
    headers: dict[str, str]
    body: bytes
    verdict: Any


Say = Callable[..., Received]


@contextmanager
def behind_envoy(url: str, guard: Guard) -> Iterator[str]:
    """The URL of a real Envoy in front of a server, which asks an external processor with that guard."""
    upstream = url.removeprefix("http://")
    host, _, port = upstream.rpartition(":")
    ports = {"ext_proc": Address("127.0.0.1", 0), "upstream": Address(host, int(port)), "metrics": None, "admin": None}
    config = guard.config.model_copy(update={**ports, "scoring_budget": timedelta(seconds=60)})
    with tempfile.TemporaryDirectory() as folder, running(config, guard) as processor:
        with attached_envoy(Path(folder), upstream, processor, codec="HTTP1") as envoy:
            yield f"http://{envoy.target}"


@contextmanager
def positioned(position: str, guard: Guard) -> Iterator[tuple[Say, OpenAIServer, str]]:
    """How to ask in a position, the server that answers, and its URL."""
    server = OpenAIServer()
    middleware = [Middleware(GuardMiddleware, guard=guard)] if position == "asgi" else []
    with ExitStack() as opened:
        url = opened.enter_context(serving(server.app(*middleware)))
        if position == "envoy":
            url = opened.enter_context(behind_envoy(url, guard))

        def body(prompt: str, more: dict[str, Any]) -> bytes:
            return json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **more}).encode()

        headers = {"content-type": "application/json"}

        def say(prompt: str, **more: Any) -> Received:
            transport: Any = httpx.HTTPTransport(**PLAIN)
            if position == "transport":
                transport = tocsin.guard_transport(transport, guard)
            with httpx.Client(transport=transport, timeout=TIMEOUT) as client:
                with client.stream("POST", url + CHAT, content=body(prompt, more), headers=headers) as response:
                    parts = list(response.iter_raw())
                return Received(response.status_code, dict(response.headers), b"".join(parts), tocsin.verdict(response))

        async def say_aio(prompt: str, **more: Any) -> Received:
            transport = tocsin.guard_transport(httpx.AsyncHTTPTransport(**PLAIN), guard)
            async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client:
                async with client.stream("POST", url + CHAT, content=body(prompt, more), headers=headers) as response:
                    parts = [part async for part in response.aiter_raw()]
                return Received(response.status_code, dict(response.headers), b"".join(parts), tocsin.verdict(response))

        yield (lambda *a, **m: asyncio.run(say_aio(*a, **m))) if position == "async transport" else say, server, url


def verdict_of(received: Received) -> dict[str, Any] | None:
    """The verdict in the header, or in the comment of a stream."""
    text = received.headers.get(METADATA_KEY)
    if text is None:
        comments = [line for line in received.body.decode().splitlines() if line.startswith(f": {METADATA_KEY} ")]
        text = comments[0].removeprefix(f": {METADATA_KEY} ") if comments else None
    return None if text is None else json.loads(text)


def without_comments(body: bytes) -> bytes:
    lines = [event for event in body.split(b"\n\n") if not event.startswith(b": tocsin-verdict ")]
    return b"\n\n".join(lines)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_bodies_are_those_of_the_server_where_nothing_is_withheld(position: str, mode: str, tokens: Path) -> None:
    guard = Guard.open(config(tokens, mode))
    with serving(OpenAIServer().app()) as url, positioned(position, guard) as (say, _, _):
        for prompt in ANSWERS:
            for more in ({"logprobs": True}, {"logprobs": True, "stream": True}):
                content = {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}
                plain_response = httpx.post(url + CHAT, json=content, timeout=TIMEOUT, **PLAIN)
                received = say(prompt, **more)
                assert received.status == 200
                assert without_comments(received.body) == plain_response.content, (prompt, more)
                if "stream" not in more and position != "envoy":  # which leaves it out where a body may change
                    assert received.headers["content-length"] == plain_response.headers["content-length"]
                reported = verdict_of(received)
                alarm = None if prompt == "safe" else "warning"
                if mode != "observe":
                    assert reported is not None and reported["alarm"] == alarm and reported["model"] == "m", (
                        prompt,
                        more,
                    )
                elif position in SERVED:
                    assert reported is None
                if position not in SERVED:  # a program sees its own verdict in every mode
                    assert received.verdict.severity == alarm


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
@pytest.mark.parametrize("streams", [False, True])
def test_what_was_asked_for_is_gone_again(position: str, mode: str, streams: bool, tokens: Path) -> None:
    guard = Guard.open(config(tokens, mode, ask=5))
    with serving(OpenAIServer().app()) as url, positioned(position, guard) as (say, server, _):
        more = {"stream": True} if streams else {}
        content = {"model": "m", "messages": [{"role": "user", "content": "two"}], **more}
        plain_response = httpx.post(url + CHAT, json=content, timeout=TIMEOUT, **PLAIN)
        received = say("two", **more)
        body, _ = server.requests[-1]
        assert (body["logprobs"], body["top_logprobs"]) == (True, 5)
        assert without_comments(received.body) == plain_response.content
        if mode != "observe":
            reported = verdict_of(received)
            assert reported is not None and reported["alarm"] == "warning"
        if not streams and position != "envoy":
            assert received.headers["content-length"] == str(len(received.body))
        asked_by_itself = say("two", logprobs=True, **more)
        assert server.requests[-1][0].get("top_logprobs") is None
        assert b'"logprob":' in asked_by_itself.body


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("streams", [False, True])
def test_a_blocked_answer_is_an_error_of_http(position: str, streams: bool, tokens: Path) -> None:
    guard = Guard.open(config(tokens, "enforce", on_alarm={"warning": "block"}))
    with positioned(position, guard) as (say, _, _):
        more = {"logprobs": True, **({"stream": True} if streams else {})}
        assert say("safe", **more).status == 200
        received = say("far", **more)
        assert received.status == 403
        assert json.loads(received.body)["error"]["code"] == "BLOCKED"
        assert json.loads(received.headers[METADATA_KEY])["action"] == "block"
        assert received.headers["content-length"] == str(len(received.body))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("ends", [False, True])
def test_a_stream_is_stopped_in_the_middle(position: str, ends: bool, each: Path) -> None:
    ending = {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}
    more = {"block": {"ending": ending}} if ends else {}
    guard = Guard.open(
        config(each, "enforce", judge="message", session="stream", on_alarm={"warning": "block"}, **more)
    )
    with positioned(position, guard) as (say, server, _):
        received = say("turns", logprobs=True, stream=True)
        assert received.status == 200
        expected = stream(*ANSWERS["turns"])
        events = received.body.split(b"\n\n")
        assert b"\n\n".join(events[:5]) + b"\n\n" == b"".join(expected[:5])  # the role, and four usual tokens
        last = json.loads(events[5].removeprefix(b"data: "))
        if ends:
            assert last["choices"][0]["finish_reason"] == "content_filter"
            assert (last["id"], last["model"]) == ("chatcmpl-1", "m")
        else:
            assert last["error"]["code"] == "BLOCKED"
        assert events[6:] == [b"data: [DONE]", b""]
        assert server.finished.wait(TIMEOUT)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("streams", [False, True])
def test_what_cannot_be_judged_fails_closed(position: str, streams: bool, tokens: Path) -> None:
    guard = Guard.open(config(tokens, "enforce", fail="closed"))
    with positioned(position, guard) as (say, _, _):
        more = {"stream": True} if streams else {}
        received = say("safe", **more)
        assert (received.status, json.loads(received.body)["error"]["code"]) == (503, "UNSCORED")
        assert say("html", **more).status == 503
        assert say("error", **more).status == 422  # an error of the server is no answer to be judged


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("streams", [False, True])
def test_a_retry_sends_the_request_again(position: str, streams: bool, tokens: Path) -> None:
    guard = Guard.open(
        config(tokens, "enforce", on_alarm={"warning": "retry"}, retry={"most": 2, "deadline": "60s"}, ask=2)
    )
    with positioned(position, guard) as (say, server, _):
        more = {"stream": True} if streams else {}
        received = say("again", **more)
        assert received.status == 200
        assert len(server.requests) == 2
        safe = say("safe", **more)
        assert without_comments(received.body) == without_comments(safe.body)
        reported = verdict_of(received)
        assert reported is not None and reported["action"] == "retry"
        assert say("far", **more).status == 400  # abstains when no try passes


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("streams", [False, True])
def test_a_fallback_is_asked_instead(position: str, streams: bool, tokens: Path) -> None:
    other = OpenAIServer(fallback=True)
    with serving(other.app()) as url:
        fallback = {"upstream": url.removeprefix("http://"), "deadline": "60s"}
        guard = Guard.open(config(tokens, "enforce", on_alarm={"warning": "fallback"}, fallback=fallback, ask=2))
        with positioned(position, guard) as (say, _, _):
            more = {"stream": True} if streams else {}
            received = say("far", **more)
            assert (received.status, len(other.requests)) == (200, 1)
            assert without_comments(received.body) == without_comments(say("safe", **more).body)
            reported = verdict_of(received)
            assert reported is not None and reported["action"] == "fallback"


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_what_follows_the_end_of_a_stream_is_counted_and_never_held_out(position: str, mode: str, tokens: Path) -> None:
    guard = Guard.open(config(tokens, mode))
    noted: list[str] = []

    class Noting:
        def __getattr__(self, name: str) -> Any:
            def note(call: Any, *_: Any) -> None:
                if name == "unscored":
                    noted.append(call.verdict.unscored)

            return note

    guard.sinks.append(Noting())  # type: ignore[arg-type]
    with positioned(position, guard) as (say, _, _):
        body = without_comments(say("beyond", logprobs=True, stream=True).body)
        assert body.startswith(b"".join(stream(*ANSWERS["safe"])))
        assert (b" beyond" in body) == (mode != "enforce")
        # of what Envoy sends in one piece, nothing tells apart what follows the end: it is judged with the rest
        assert noted == ([] if (position, mode) == ("envoy", "observe") else ["undecodable"])


@pytest.mark.parametrize("position", POSITIONS)
def test_an_abstention_is_a_response_of_the_protocol(position: str, tokens: Path) -> None:
    response = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "no"}, "finish_reason": "stop"}]}
    abstain = {"response": response, "keep": ["id", "model"]}
    guard = Guard.open(config(tokens, "enforce", on_alarm={"warning": "abstain"}, abstain=abstain))
    with positioned(position, guard) as (say, _, _):
        received = say("far", logprobs=True)
        assert (received.status, json.loads(received.body)) == (200, {"id": "chatcmpl-1", "model": "m", **response})


def test_other_routes_and_verbs_pass(tokens: Path) -> None:
    guard = Guard.open(config(tokens, "enforce"))
    server = OpenAIServer()
    with serving(server.app(Middleware(GuardMiddleware, guard=guard))) as url:
        assert httpx.get(url + "/v1/models", timeout=TIMEOUT, **PLAIN).json() == {"data": []}
        assert httpx.get(url + CHAT, timeout=TIMEOUT, **PLAIN).status_code == 405
        encoded = "/v1/chat/%63ompletions"  # the same to the server
        content = {"model": "m", "messages": [{"role": "user", "content": "far"}], "logprobs": True}
        assert METADATA_KEY in httpx.post(url + encoded, json=content, timeout=TIMEOUT, **PLAIN).headers


@pytest.mark.parametrize("where", ["client", "server"])
@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_the_client_of_openai_is_guarded(where: str, library: str, tokens: Path, each: Path) -> None:
    import openai

    http = pytest.importorskip(library)
    guard = Guard.open(config(tokens, "enforce", on_alarm={"warning": "block"}, ask=2))
    stopping = Guard.open(
        config(each, "enforce", judge="message", session="stream", on_alarm={"warning": "block"}, ask=2)
    )
    for chosen in (guard, stopping):
        middleware = [Middleware(GuardMiddleware, guard=chosen)] if where == "server" else []
        server = OpenAIServer()
        with serving(server.app(*middleware)) as url:
            transport = http.HTTPTransport(**PLAIN)
            if where == "client":
                transport = tocsin.guard_transport(transport, chosen)
            client = openai.OpenAI(
                base_url=f"{url}/v1", api_key="none", http_client=http.Client(transport=transport, timeout=TIMEOUT)
            )

            def create(prompt: str, client: Any = client, **more: Any) -> Any:
                return client.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}], **more)

            assert create("safe").choices[0].message.content == " w0 w1 w2 w3 w4 w5"
            assert create("safe").choices[0].logprobs is None
            streamed = [event.choices[0].delta.content for event in create("safe", stream=True) if event.choices]
            assert "".join(text or "" for text in streamed) == " w0 w1 w2 w3 w4 w5"
            if chosen is guard:
                with pytest.raises(openai.PermissionDeniedError) as refused:
                    create("far")
                assert refused.value.code == "BLOCKED"
                with pytest.raises(openai.PermissionDeniedError):
                    create("far", stream=True)
            else:
                texts: list[str] = []
                with pytest.raises(openai.APIError, match="the monitor blocks this answer"):
                    for event in create("turns", stream=True):
                        texts.append(event.choices[0].delta.content or "")
                assert "".join(texts) == " w0 w1 w2 w3"


@pytest.mark.parametrize("position", POSITIONS)
def test_a_program_records_what_it_is_calibrated_on(position: str, tmp_path: Path) -> None:
    with tocsin.record(config(None, ask=2), tmp_path / "safe") as guard:
        with positioned(position, guard) as (say, _, _):
            bodies = [say("two").body, say("two", stream=True).body]
    assert not any(b'"logprob":' in body for body in bodies)
    columns = pq.read_table(tmp_path / "safe").to_pydict()
    signal = next(name for name in columns if "token_logprobs" in name)
    assert len(columns[signal]) == 4
    assert sorted(float(row[0]) for row in columns[signal]) == pytest.approx([STRANGE, STRANGE, USUAL, USUAL])


def test_a_guard_without_http_is_refused(bundle: Path) -> None:
    from benchmarks.harness.parts import settings

    guard = Guard.open(settings(1, bundle))
    with pytest.raises(ConfigError, match=r"GuardMiddleware judges protocols of HTTP.*digits \(oip\)"):
        GuardMiddleware(lambda *_: None, guard=guard)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="guard_transport judges protocols of HTTP"):
        tocsin.guard_transport(httpx.HTTPTransport(**PLAIN), guard)
