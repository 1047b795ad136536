"""Claims about acting in the relay that a server of frames shows best: odd responses, late ones, what verdicts say."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.by_hand import fields, until, upstream
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    STREAM_INFER,
    Running,
    far_away,
    hold_scores,
    inference,
    running,
    safe_traffic,
    settings,
    streamed,
)
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame

import tocsin
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.grpc_wire.deframer import framed
from tocsin.http2.frames import PREFACE
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip

FAR = inference(far_away(1), slice(0, 1))
GOOD = inference(safe_traffic(900), slice(400, 401))
OPENING = fields((":status", "200"), ("content-type", "application/grpc"))
ENDING = fields(("grpc-status", "0"))
BLOCKS = {"on_alarm": {"critical": "block"}}


def sends(*data: bytes, status: str = "0", pause: float = 0.0) -> Callable[[socket.socket, int], None]:
    """A response of these payloads."""

    def behave(peer: socket.socket, stream: int) -> None:
        peer.sendall(bytes(HeadersFrame(stream, data=OPENING, flags=["END_HEADERS"]).serialize()))
        for payload in data:
            peer.sendall(bytes(DataFrame(stream, data=payload).serialize()))
            time.sleep(pause)
        trailers = fields(("grpc-status", status), ("grpc-message", "as it was"))
        peer.sendall(bytes(HeadersFrame(stream, data=trailers, flags=["END_HEADERS", "END_STREAM"]).serialize()))

    return behave


def config(port: int, bundle: Path | None, *, mode: str = "enforce", fail: str = "open", **model: Any) -> Config:
    plain = settings(port, bundle, mode=mode, fail=fail)
    parts = {**plain.models["digits"].model_dump(exclude_unset=True), **model}
    return Config(**{**plain.model_dump(exclude_unset=True), "models": {"digits": parts}})


def stream(target: str) -> tuple[list[bytes], Any]:
    """Every message of a response, whatever kind of response the server thinks it is, and the call."""
    with grpc.insecure_channel(target) as channel:
        call = channel.stream_stream(STREAM_INFER)(iter([b"x"]), timeout=60)
        received: list[bytes] = []
        with suppress(grpc.RpcError):
            received.extend(call)
        return received, call


def unary_as_it_came(target: str, request: bytes = b"x") -> tuple[list[bytes], Any]:
    """The messages of ModelInfer, read as a stream: a caller's library shows no second one."""
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_stream(INFER)(request, timeout=60)
        received: list[bytes] = []
        with suppress(grpc.RpcError):
            received.extend(call)
        return received, call


def counted(relay: Running, line: str) -> float:
    samples = [text for text in relay.metrics.splitlines() if text.startswith(line + " ")]
    return float(samples[0].rpartition(" ")[2]) if samples else 0.0


@pytest.mark.parametrize("apart", [False, True])
def test_a_second_message_of_a_unary_answer_passes_unjudged_or_is_refused(apart: bool, bundle: Path) -> None:
    payloads = (framed(GOOD), framed(FAR)) if apart else (framed(GOOD) + framed(FAR),)
    for pause in (0.0, 0.3) if apart else (0.0,):
        with upstream(sends(*payloads, pause=pause)) as port:
            with running(config(port, bundle, fail="open", **BLOCKS)) as relay:
                received, call = unary_as_it_came(relay.target)
                assert (received, call.code()) == ([GOOD, FAR], grpc.StatusCode.OK)
                assert counted(relay, 'tocsin_unscored_total{model="digits",reason="undecodable"}') == 1
            with running(config(port, bundle, fail="closed", **BLOCKS)) as relay:
                received, call = unary_as_it_came(relay.target)
                assert call.code() is grpc.StatusCode.UNAVAILABLE and FAR not in received
                assert "undecodable" in call.details()
                assert counted(relay, 'tocsin_unscored_total{model="digits",reason="undecodable"}') == 1
    with upstream(sends(framed(FAR) + framed(GOOD))) as port, running(config(port, bundle, **BLOCKS)) as relay:
        assert unary_as_it_came(relay.target)[0] == []  # what is withheld takes what follows it along


def by_hand(port: int, method: str) -> tuple[bytes, str]:
    """The DATA of a response as it is on the wire, and its grpc-status."""
    opening = fields(
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "x"), ("te", "trailers")
    )
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.sendall(PREFACE + SettingsFrame(0).serialize())
        peer.sendall(HeadersFrame(1, data=opening, flags=["END_HEADERS"]).serialize())
        peer.sendall(DataFrame(1, data=framed(b"x"), flags=["END_STREAM"]).serialize())
        reader, content, decoder = peer.makefile("rb"), b"", Decoder()
        while True:
            frame, length = Frame.parse_frame_header(memoryview(reader.read(9)))
            frame.parse_body(memoryview(reader.read(length)))
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                peer.sendall(SettingsFrame(0, flags=["ACK"]).serialize())
            if isinstance(frame, DataFrame):
                content += frame.data
            if isinstance(frame, HeadersFrame):
                status = dict(decoder.decode(frame.data)).get("grpc-status", "")
                if "END_STREAM" in frame.flags:
                    return content, str(status)


@pytest.mark.parametrize("method", [INFER, STREAM_INFER])
@pytest.mark.parametrize("has_complete", [True, False])
def test_a_truncated_message_is_seen_as_such(method: str, has_complete: bool, bundle: Path) -> None:
    message = framed(streamed(GOOD) if method == STREAM_INFER else GOOD)
    sent = (message if has_complete else b"") + message[:-7]
    with upstream(sends(sent)) as port:
        with running(config(port, bundle, fail="open")) as relay:
            assert by_hand(int(relay.target.rpartition(":")[2]), method) == by_hand(port, method) == (sent, "0")
            assert counted(relay, 'tocsin_unscored_total{model="digits",reason="undecodable"}') == 1
            assert counted(relay, 'tocsin_unscored_total{model="digits",reason="no_response"}') == 0
        with running(config(port, bundle, fail="closed")) as relay:
            content, status = by_hand(int(relay.target.rpartition(":")[2]), method)
            assert status == "14" and content in (b"", message)
    with upstream(sends(sent, status="9")) as port, running(config(port, bundle, fail="closed")) as relay:
        content, status = by_hand(int(relay.target.rpartition(":")[2]), method)
        assert status == "9" and content in (b"", message)


def test_a_response_whose_trailers_come_after_the_budget_ends(bundle: Path) -> None:
    settings = config(1, bundle, scoring_budget="20ms")
    guard = Guard.open(settings)
    goes_on = hold_scores(guard)
    with upstream(sends(framed(GOOD), pause=0.1)) as port, running(_towards(settings, port), guard) as relay:
        received, call = unary_as_it_came(relay.target)
        assert (received, call.code()) == ([GOOD], grpc.StatusCode.OK)
        assert tocsin.verdict(call).unscored == "late"
        goes_on.set()
        until(lambda: counted(relay, 'tocsin_unscored_total{model="digits",reason="late"}') == 1)


def _towards(settings: Config, port: int) -> Config:
    return Config(**{**settings.model_dump(exclude_unset=True), "upstream": f"127.0.0.1:{port}"})


def warns(bundle: Path) -> bytes:
    """A response whose alarm is a warning."""
    guard, safe = Guard.open(settings(1, bundle)), safe_traffic(900, seed=5)
    for row in range(900):
        call = guard.call(INFER, {})
        assert call is not None
        call.on_response_message(answer := inference(safe, slice(row, row + 1)))
        guard.judge([call])
        if call.verdict is not None and call.verdict.severity == "warning":
            return answer
    raise AssertionError("none of them warns")


def test_the_verdict_of_a_stream_is_the_one_that_was_acted_upon(bundle: Path) -> None:
    actions = {"warning": "abstain", "critical": "block"}
    together = framed(streamed(warns(bundle))) + framed(streamed(FAR))  # judged in one batch
    with upstream(sends(together)) as port, running(config(port, bundle, on_alarm=actions)) as relay:
        received, call = stream(relay.target)
        assert (received, call.code()) == ([], grpc.StatusCode.FAILED_PRECONDITION)
        verdict = tocsin.verdict(call)
        assert (verdict.action, verdict.severity) == ("abstain", "warning")


def test_a_severity_that_the_bundle_does_not_have_is_an_error(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.digits\.on_alarm\.critcal: the bundle has no such severity"):
        Guard.open(config(1, bundle, on_alarm={"critcal": "block"}))


def test_an_answer_that_some_method_cannot_hold_is_an_error(bundle: Path, tmp_path: Path) -> None:
    from benchmarks.harness import ranker as acme

    text = {"bundle": bundle, "protocol": "two", "signals": acme.SIGNALS, "abstain": {"response": {"id": "none"}}}
    protocol = acme.protocol(tmp_path)["ranker"]
    Guard.open(Config(protocols={"two": protocol}, models={"digits": text}))
    text["abstain"] = {"response": {"outputs": []}}
    with pytest.raises(ConfigError, match=r"abstain\.response: fits no method"):
        Guard.open(Config(protocols={"two": protocol}, models={"digits": text}))
    with pytest.raises(ConfigError, match=r"abstain\.response: fits .*ModelStreamInfer, but not every guarded method"):
        Guard.open(config(1, bundle, abstain={"response": {"error_message": "withheld"}}))


def test_an_abstained_answer_in_a_stream_is_a_message_of_the_stream(bundle: Path) -> None:
    abstention = {"response": {"outputs": [{"name": "label"}]}, "keep": ["model_name", "id"]}
    policy = {"on_alarm": {"critical": "abstain"}, "abstain": abstention}
    with upstream(sends(framed(streamed(FAR)))) as port, running(config(port, bundle, **policy)) as relay:
        (received,), call = stream(relay.target)
        assert call.code() is grpc.StatusCode.OK
        answer = oip.StreamResponse.FromString(received).infer_response
        assert (answer.model_name, answer.id, [tensor.name for tensor in answer.outputs]) == ("digits", "42", ["label"])


@pytest.mark.parametrize("way", ["retry", "fallback"])
def test_another_answer_holds_no_more_than_the_caller_asked_for(way: str, bundle: Path) -> None:
    asks = oip.Request(model_name="digits")
    asks.outputs.add(name="label")
    request, edited = asks.SerializeToString(), oip.Request.FromString(asks.SerializeToString())
    for name in ("probs", "embedding"):
        edited.outputs.add(name=name)

    def with_label(answer: bytes) -> bytes:
        message = oip.Response.FromString(answer)
        message.outputs.add(name="label", datatype="INT32").shape.append(1)
        message.raw_output_contents.append(b"\1\0\0\0")
        return bytes(message.SerializeToString())

    key = bytes(edited.SerializeToString())
    with model_server() as (model, address), model_server() as (safer, elsewhere):
        model.sequence = {key: [with_label(FAR), with_label(GOOD)]}
        safer.answers = {key: with_label(GOOD)}
        how = {"retry": {"most": 1}} if way == "retry" else {"fallback": {"upstream": elsewhere, "deadline": "5s"}}
        port = int(address.rpartition(":")[2])
        with running(config(port, bundle, ask=True, on_alarm={"critical": way}, **how)) as relay:
            (received,), call = unary_as_it_came(relay.target, request)
            assert tocsin.verdict(call).action == way
            assert [output.name for output in oip.Response.FromString(received).outputs] == ["label"]
