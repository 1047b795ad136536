"""Claims about enforce: what callers get in place of answers that are not to go out, and that others are untouched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.certificates import Authority
from benchmarks.harness.model_server import Model, model_server
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

import tocsin
from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.guard import Guard
from tocsin.judgement.policy import DETAILS_KEY, ErrorInfo, RichStatus
from tocsin.outbound import Sending, Target, aio_channels, channels
from tocsin.protocols import oip

SAFE = safe_traffic(40, seed=11)
FAR = far_away(2)
ANSWERS = {
    **{b"safe %d" % row: inference(SAFE, slice(row, row + 1)) for row in range(40)},
    b"far": inference(FAR, slice(0, 1)),
    b"half": oip.Response.FromString(inference(SAFE, slice(0, 1))).SerializeToString()[:-9],
}
CALM = [b"safe %d" % row for row in range(40)]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextmanager
def enforcing(bundle: Path, model: Model | None = None, **more: Any) -> Iterator[tuple[Running, Model]]:
    config: dict[str, Any] = {key: more.pop(key) for key in list(more) if key not in _OF_MODEL}
    with model_server() as (server, address):
        server.answers = ANSWERS
        base = settings(address, bundle, mode="enforce", **config)
        parts = {**base.models["digits"].model_dump(exclude_unset=True), **more}
        content = {**base.model_dump(exclude_unset=True), "models": {"digits": parts}}
        with running(type(base)(**content)) as relay:
            yield relay, server


_OF_MODEL = {"on_alarm", "abstain", "block", "fallback", "retry", "judge", "scoring_budget", "session"}


def ask(relay: Running, request: bytes, **more: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The response or None, the status, and the trailing metadata."""
    with grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
        try:
            response, call = channel.unary_unary(INFER).with_call(request, timeout=60, **more)
        except grpc.RpcError as error:
            return None, error.code(), dict(error.trailing_metadata() or ()) | {"details": error.details()}  # type: ignore[attr-defined]
        return response, call.code(), dict(call.trailing_metadata())


def counted(relay: Running, line: str) -> float:
    samples = [text for text in relay.metrics.splitlines() if text.startswith(line + " ")]
    return float(samples[0].rpartition(" ")[2]) if samples else 0.0


def calm(relay: Running) -> Any:
    """A response that raises no alarm."""
    for request in CALM:
        response, status, trailing = ask(relay, request)
        if tocsin.Verdict.from_metadata(trailing["tocsin-verdict"]).severity is None:
            assert (response, status) == (ANSWERS[request], grpc.StatusCode.OK)
            return request
    raise AssertionError("all of them alarm")


def test_an_alarm_is_flagged_unless_more_is_asked(bundle: Path) -> None:
    with enforcing(bundle) as (relay, _):
        response, status, trailing = ask(relay, b"far")
        assert (response, status) == (ANSWERS[b"far"], grpc.StatusCode.OK)
        assert tocsin.Verdict.from_metadata(trailing["tocsin-verdict"]).action == "flag"
        assert counted(relay, 'tocsin_actions_total{action="flag",model="digits"}') == 1


def test_a_blocked_answer_is_a_status_with_its_facts(bundle: Path) -> None:
    block = {"status": "PERMISSION_DENIED", "message": "100% nicht: ü"}
    with enforcing(bundle, on_alarm={"critical": "block"}, block=block) as (relay, _):
        calm(relay)
        response, status, trailing = ask(relay, b"far")
        assert (response, status) == (None, grpc.StatusCode.PERMISSION_DENIED)
        assert trailing["details"] == "100% nicht: ü"
        rich = RichStatus.FromString(trailing[DETAILS_KEY])
        info = ErrorInfo.FromString(rich.details[0].value)
        assert (rich.code, rich.message, info.reason, info.domain) == (7, "100% nicht: ü", "BLOCKED", "tocsin")
        assert info.metadata["severity"] == "critical" and info.metadata["model"] == "digits"
        verdict = tocsin.Verdict.from_metadata(trailing["tocsin-verdict"])
        assert (verdict.action, verdict.severity) == ("block", "critical")
        assert counted(relay, 'tocsin_actions_total{action="block",model="digits"}') == 1
        calm(relay)


def test_an_abstained_answer_is_a_response_of_the_protocol(bundle: Path) -> None:
    label = {"name": "label", "datatype": "INT64", "shape": ["1"], "contents": {"int64_contents": ["-1"]}}
    abstention = {"response": {"outputs": [label]}, "keep": ["model_name", "id"]}
    with enforcing(bundle, on_alarm={"critical": "abstain"}, abstain=abstention) as (relay, _):
        response, status, _ = ask(relay, b"far")
        answer = oip.Response.FromString(response)
        assert status == grpc.StatusCode.OK
        assert (answer.model_name, answer.id, len(answer.outputs)) == ("digits", "42", 1)
        assert list(answer.outputs[0].contents.int64_contents) == [-1]


def test_a_share_of_alarms_is_acted_upon_and_always_the_same(bundle: Path) -> None:
    with enforcing(bundle, on_alarm={"critical": {"action": "block", "share": 0.5}}) as (relay, server):
        server.answers = {b"%d" % n: inference(far_away(1), slice(0, 1)).replace(b"42", b"%02d" % n) for n in range(60)}
        first = [ask(relay, b"%d" % n)[1] for n in range(60)]
        again = [ask(relay, b"%d" % n)[1] for n in range(60)]
    assert first == again
    assert 10 < sum(status == grpc.StatusCode.PERMISSION_DENIED for status in first) < 50  # p < 1e-6 outside


def test_the_fallback_answers_with_the_callers_metadata_and_deadline(bundle: Path) -> None:
    with model_server() as (safer, address):
        safer.answers = {b"far": ANSWERS[b"safe 1"]}
        fallback = {"upstream": address, "deadline": "2s"}
        with enforcing(bundle, on_alarm={"critical": "fallback"}, fallback=fallback) as (relay, _):
            response, status, _ = ask(relay, b"far", metadata=(("x-tenant", "a"), ("x-key-bin", b"\0\1")))
            assert (response, status) == (ANSWERS[b"safe 1"], grpc.StatusCode.OK)
            assert safer.metadata[-1]["x-tenant"] == "a" and safer.metadata[-1]["x-key-bin"] == b"\0\1"
            assert ask(relay, b"far", metadata=(("sleep", "4"),))[1] == grpc.StatusCode.FAILED_PRECONDITION
        with enforcing(bundle, on_alarm={"critical": "fallback"}, fallback={"upstream": "127.0.0.1:1"}) as (relay, _):
            assert ask(relay, b"far")[1] == grpc.StatusCode.FAILED_PRECONDITION
            assert counted(relay, 'tocsin_actions_total{action="abstain",model="digits"}') == 1


def test_a_fallback_is_asked_over_tls_by_every_position(bundle: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("safer")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with model_server(credentials=credentials) as (safer, address):
        safer.answers = {b"far": ANSWERS[b"safe 1"]}
        fallback = {"upstream": address, "tls": {"ca": authority.ca}, "deadline": "5s"}
        with enforcing(bundle, on_alarm={"critical": "fallback"}, fallback=fallback) as (relay, _):
            assert ask(relay, b"far")[:2] == (ANSWERS[b"safe 1"], grpc.StatusCode.OK)
        target = Target(Address("127.0.0.1", int(address.rpartition(":")[2])), UpstreamTls(ca=authority.ca))
        sending = Sending(INFER, b"far", (), 5.0, streams=False, limit=1 << 20)

        async def send(target: Target) -> Any:
            return await aio_channels().send(target, sending)

        assert channels.send(target, sending) == asyncio.run(send(target)) == [ANSWERS[b"safe 1"]]
        stranger = Authority(tmp_path / "stranger")
        for ca, ca_kind in ((stranger.ca, "strange"), (tmp_path / "none.pem", "missing")):
            fallback = {"upstream": address, "tls": {"ca": ca}, "deadline": "2s"}
            with enforcing(bundle, on_alarm={"critical": "fallback"}, fallback=fallback) as (relay, _):
                assert ask(relay, b"far")[1] == grpc.StatusCode.FAILED_PRECONDITION, ca_kind
        unreadable = target._replace(tls=UpstreamTls(ca=tmp_path / "none.pem"))
        assert asyncio.run(send(unreadable)) is None and channels.send(unreadable, sending) is None


def test_retries_ask_the_same_model_until_an_answer_passes(bundle: Path) -> None:
    with enforcing(bundle, on_alarm={"critical": "retry"}, retry={"most": 3}) as (relay, server):
        server.sequence = {b"wavering": [ANSWERS[b"far"], ANSWERS[b"far"], ANSWERS[calm(relay)]]}
        response, status, trailing = ask(relay, b"wavering")
        assert (response, status) == (server.sequence[b"wavering"][2], grpc.StatusCode.OK)
        assert tocsin.Verdict.from_metadata(trailing["tocsin-verdict"]).severity is None
        assert ask(relay, b"far")[1] == grpc.StatusCode.FAILED_PRECONDITION
        assert server.request_counts[b"far"] == 4


def test_retries_that_are_not_worth_their_cost_are_not_made(bundle: Path) -> None:
    retry = {"most": 3, "accuracy": 0.1, "passes_right": 0.9, "passes_wrong": 0.9, "cost": 0.1}
    with enforcing(bundle, on_alarm={"critical": "retry"}, retry=retry) as (relay, server):
        assert ask(relay, b"far")[1] == grpc.StatusCode.FAILED_PRECONDITION
        assert server.request_counts[b"far"] == 1


@pytest.mark.parametrize("fail", ["open", "closed"])
@pytest.mark.parametrize(
    ("request_", "reason"),
    [(b"half", "undecodable"), (b"x" * 5000, "too_large"), (b"\xff", "undecodable"), (b"y" * 40_000, "too_large")],
)
def test_what_cannot_be_scored_passes_or_is_refused_as_configured(
    bundle: Path, fail: str, request_: bytes, reason: str
) -> None:
    with enforcing(bundle, fail=fail, max_message=4096) as (relay, _):
        response, status, trailing = ask(relay, request_)
        assert counted(relay, f'tocsin_unscored_total{{model="digits",reason="{reason}"}}') == 1
        if fail == "open":
            assert (response, status) == (ANSWERS.get(request_, request_), grpc.StatusCode.OK)
        else:
            assert (response, status) == (None, grpc.StatusCode.UNAVAILABLE)
            assert reason in trailing["details"]
            assert counted(relay, 'tocsin_actions_total{action="refused",model="digits"}') == 1
        calm(relay)


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_a_stream_that_cannot_be_held_passes_whole_or_is_refused(bundle: Path, fail: str) -> None:
    with enforcing(bundle, judge="end", fail=fail, max_memory="200KB") as (relay, _):
        for size in (30_000, 7_001, 100):
            received, call = stream(relay, [bytes([n]) * size for n in range(60)])
            if fail == "open" or size == 100:
                assert received == [streamed(bytes([n]) * size) for n in range(60)] or fail == "closed"
                assert call.code() is (grpc.StatusCode.OK if fail == "open" else grpc.StatusCode.UNAVAILABLE)
            else:
                assert (received, call.code()) == ([], grpc.StatusCode.UNAVAILABLE)
        assert relay.sidecar.relay.context.memory.remaining == relay.sidecar.config.max_memory


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_a_late_verdict_follows_the_fail_policy(bundle: Path, fail: str) -> None:
    with model_server() as (model, address):
        model.answers = ANSWERS
        config = settings(address, bundle, mode="enforce", fail=fail, scoring_budget="20ms")
        guard = Guard.open(config)
        goes_on = hold_scores(guard)
        with running(config, guard) as relay:
            response, status, _ = ask(relay, b"safe 1")
            assert not goes_on.is_set()  # nobody waited for the scores
            expected = (
                (ANSWERS[b"safe 1"], grpc.StatusCode.OK) if fail == "open" else (None, grpc.StatusCode.UNAVAILABLE)
            )
            assert (response, status) == expected
            goes_on.set()
            until(lambda: not relay.sidecar.relay.context.batcher._in_flight)
            assert counted(relay, 'tocsin_unscored_total{model="digits",reason="late"}') == 1


def stream(relay: Running, requests: list[bytes], **more: Any) -> tuple[list[bytes], Any]:
    with grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
        call = channel.stream_stream(STREAM_INFER)(iter(requests), timeout=60, **more)
        received: list[bytes] = []
        with suppress(grpc.RpcError):
            received.extend(call)
        return received, call


def test_a_stream_is_stopped_where_it_goes_wrong_and_what_went_out_stays(bundle: Path) -> None:
    with enforcing(bundle, on_alarm={"critical": "block"}) as (relay, _):
        good = calm(relay)
        received, call = stream(relay, [good, good, b"far", good, good])
        assert received == [streamed(ANSWERS[good])] * 2
        assert call.code() == grpc.StatusCode.PERMISSION_DENIED
        received, call = stream(relay, [good] * 50)
        assert received == [streamed(ANSWERS[good])] * 50 and call.code() == grpc.StatusCode.OK
        assert tocsin.verdict(call).severity is None


def test_a_stream_judged_at_its_end_goes_out_whole_or_not_at_all(bundle: Path) -> None:
    with enforcing(bundle, on_alarm={"critical": "block"}, judge="end") as (relay, _):
        good = calm(relay)
        received, call = stream(relay, [good] * 20)
        assert received == [streamed(ANSWERS[good])] * 20 and len(tocsin.verdict(call).pvalues) == 20
        received, call = stream(relay, [good] * 20 + [b"far"])
        assert received == [] and call.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_window_goes_out_together(bundle: Path) -> None:
    with enforcing(bundle, on_alarm={"critical": "block"}, judge=4) as (relay, _):
        good = calm(relay)
        received, call = stream(relay, [good] * 4 + [good, good, b"far", good] + [good] * 4)
        assert received == [streamed(ANSWERS[good])] * 4 and call.code() == grpc.StatusCode.PERMISSION_DENIED
        received, _ = stream(relay, [good] * 10)
        assert received == [streamed(ANSWERS[good])] * 10


@pytest.mark.parametrize("size", [0, 1, 16_000, 70_000, 300_000, 5_000_000])
def test_held_responses_of_any_size_arrive_whole_beside_others(bundle: Path, size: int) -> None:
    with enforcing(bundle) as (relay, _server):
        request = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
        with grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
            guarded = [channel.unary_unary(INFER).future(request, timeout=60) for _ in range(4)]
            others = [channel.unary_unary("/test.Model/Unary").future(request, timeout=60) for _ in range(4)]
            down = channel.unary_stream("/test.Model/Down")(request[:100_000], metadata=(("count", "20"),), timeout=60)
            assert [future.result() for future in guarded] == [request] * 4
            assert [future.result() for future in others] == [request] * 4
            assert [len(part) for part in down] == [len(request[:100_000]) + len(str(n)) for n in range(20)]
        assert relay.sidecar.relay.context.memory.remaining == relay.sidecar.config.max_memory


def test_a_slow_reader_of_held_streams_holds_the_server_back_and_loses_nothing(bundle: Path) -> None:
    with enforcing(bundle, max_message="1MiB") as (relay, _server):
        big = b"x" * 400_000
        with grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
            call = channel.stream_stream(STREAM_INFER)(iter([big] * 40), timeout=60)
            received = []
            for number, message in enumerate(call):
                received.append(message)
                if number < 5:
                    time.sleep(0.1)
        assert received == [streamed(big)] * 40


def test_a_caller_who_leaves_frees_what_was_held(bundle: Path) -> None:
    with enforcing(bundle, judge="end") as (relay, _server):
        with grpc.insecure_channel(relay.target, options=UNLIMITED) as channel:
            hold = iter_slowly([b"x" * 100_000] * 5, 0.05)
            call = channel.stream_stream(STREAM_INFER)(hold, timeout=60)
            time.sleep(0.4)
            call.cancel()
        connections: Any = relay.sidecar.relay.context.connections
        until(lambda: not any(connection.streams for connection in connections))
        until(lambda: relay.sidecar.relay.context.memory.remaining == relay.sidecar.config.max_memory)
        assert ask(relay, b"safe 1")[0] == ANSWERS[b"safe 1"]


def iter_slowly(parts: list[bytes], pause: float) -> Iterator[bytes]:
    for part in parts:
        yield part
        time.sleep(pause)
    time.sleep(2)
