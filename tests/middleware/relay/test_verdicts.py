"""Claims about verdicts on the wire: one hand writes them, those from behind are removed or read as a stranger's input,
and they fit what callers take.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.by_hand import fields, upstream
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
)
from benchmarks.harness.serving import serving
from hyperframe.frame import DataFrame, HeadersFrame
from tests.middleware.relay.test_verdict_fields import SPELLINGS

import tocsin
from tocsin.grpc_wire.deframer import framed
from tocsin.http2.header_literals import literal
from tocsin.judgement.guard import Guard
from tocsin.verdict import METADATA_KEY, USUAL_LIST_SIZE, Verdict

FAR = inference(far_away(1), slice(0, 1))
GOOD = inference(safe_traffic(900), slice(400, 401))
MODES = ["observe", "annotate", "enforce"]


def text(**more: Any) -> str:
    """A forged verdict as metadata text."""
    content = {"model": "digits", "alarm": None, "action": "pass", "p": [0.99], "bundle": "sha256:forged"}
    return json.dumps({**content, **more})


FORGED = text()
ALARM = text(alarm="critical", action="flag", p=[0.001])
Behave = Callable[[bytes, Any], bytes]


class Forger(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every method as `behave` does."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave

    def service(self, details: Any) -> Any:
        if details.method == STREAM_INFER:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._behave)

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        answer = self._behave(next(requests), context)
        yield from (answer, *(answer for _ in requests))


@contextmanager
def forger(behave: Behave) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Forger(behave),))
    with serving(server) as address:
        yield address


def everywhere(request: bytes, context: Any) -> bytes:
    """Verdicts in initial and trailing metadata, twice."""
    context.send_initial_metadata(((METADATA_KEY, FORGED), ("x-own", "1")))
    context.set_trailing_metadata(((METADATA_KEY, FORGED), ("x-own", "2"), (METADATA_KEY, FORGED)))
    if b"fail" in request:
        context.abort(grpc.StatusCode.INTERNAL, "failed")
    return FAR


def only_trailers(request: bytes, context: Any) -> bytes:
    """A response without a message, and without initial metadata."""
    del request
    context.set_trailing_metadata(((METADATA_KEY, FORGED),))
    context.abort(grpc.StatusCode.NOT_FOUND, "none")
    raise AssertionError


def call(target: str, request: bytes = b"x", method: str = INFER, **options: Any) -> Any:
    """Make a call, and return it whether it failed or not."""
    with grpc.insecure_channel(target, options=list(options.items())) as channel:
        try:
            return channel.unary_unary(method).with_call(request, timeout=60)[1]
        except grpc.RpcError as error:
            return error


def verdicts(metadata: Any) -> list[str]:
    return [value for key, value in metadata or () if key == METADATA_KEY]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", [INFER, "/any.Other/Method"])
def test_verdicts_of_the_model_server_are_removed(mode: str, method: str, bundle: Path) -> None:
    with forger(everywhere) as address, running(settings(address, bundle, mode=mode)) as relay:
        for request in (b"x", b"fail"):
            done = call(relay.target, request, method)
            assert (done.code() is grpc.StatusCode.OK) == (request == b"x")
            assert verdicts(done.initial_metadata()) == []
            reported = verdicts(done.trailing_metadata())
            assert dict(done.trailing_metadata())["x-own"] == "2" and dict(done.initial_metadata())["x-own"] == "1"
            if method == INFER and request == b"x" and mode != "observe":
                assert len(reported) == 1 and tocsin.verdict(done).severity == "critical"
            else:
                assert reported == [] and tocsin.verdict(done) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", [INFER, "/any.Other/Method"])
def test_so_are_those_of_a_response_of_trailers_alone(mode: str, method: str, bundle: Path) -> None:
    with forger(only_trailers) as address, running(settings(address, bundle, mode=mode)) as relay:
        done = call(relay.target, method=method)
    assert done.code() is grpc.StatusCode.NOT_FOUND and verdicts(done.trailing_metadata()) == []


@pytest.mark.parametrize("mode", MODES)
def test_so_are_those_of_streams(mode: str, bundle: Path) -> None:
    with forger(everywhere) as address, running(settings(address, bundle, mode=mode)) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            stream = channel.stream_stream(STREAM_INFER)(iter([b"a", b"b"]), timeout=60)
            assert list(stream) == [FAR, FAR]
            assert verdicts(stream.initial_metadata()) == [] and FORGED not in verdicts(stream.trailing_metadata())
            assert len(verdicts(stream.trailing_metadata())) == (mode != "observe")


def headers(stream: int, block: bytes, *flags: str) -> bytes:
    return bytes(HeadersFrame(stream, data=block, flags=["END_HEADERS", *flags]).serialize())


OPENING = fields((":status", "200"), ("content-type", "application/grpc"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if "apitals" not in name])
def test_so_are_those_that_are_spelt_otherwise(mode: str, spelling: str, bundle: Path) -> None:
    def behave(peer: socket.socket, stream: int) -> None:
        opening = headers(stream, OPENING + SPELLINGS[spelling])
        trailers = headers(stream, fields(("grpc-status", "0")) + SPELLINGS[spelling] + literal("x", "y"), "END_STREAM")
        peer.sendall(opening + DataFrame(stream, data=framed(FAR)).serialize() + trailers)

    with upstream(behave) as port, running(settings(port, bundle, mode=mode)) as relay:
        for method in (INFER, "/any.Other/Method"):
            done = call(relay.target, method=method)
            assert done.code() is grpc.StatusCode.OK and dict(done.trailing_metadata())["x"] == "y"
            assert verdicts(done.initial_metadata()) == [] and "x" not in verdicts(done.trailing_metadata())


def test_a_forged_verdict_in_the_callers_table_is_refused_where_nothing_may_pass_unread(bundle: Path) -> None:
    """A block on a stream that nobody opened puts a field into the caller's table, which the relay has said is empty;
    trailers then name the entry.
    """

    def behave(peer: socket.socket, stream: int) -> None:
        indexed = b"\x40" + literal(METADATA_KEY, FORGED)[1:]
        first = headers(stream + 2, OPENING + indexed)
        trailers = headers(stream, fields(("grpc-status", "0")) + b"\xbe", "END_STREAM")
        peer.sendall(headers(stream, OPENING) + first + DataFrame(stream, data=framed(FAR)).serialize() + trailers)

    with upstream(behave) as port:
        for mode, fail in (("annotate", "open"), ("enforce", "open"), ("enforce", "closed")):
            with running(settings(port, bundle, mode=mode, fail=fail)) as relay:
                done = call(relay.target)
                assert FORGED not in verdicts(done.trailing_metadata())
                assert counted(relay, 'tocsin_relay_not_understood_total{what="headers"}') >= 1
                assert fail == "open" or done.code() is grpc.StatusCode.UNAVAILABLE


# -- accept_verdicts


@contextmanager
def accepting(bundle: Path, behave: Behave, **more: Any) -> Iterator[Running]:
    model = {"bundle": bundle, "signals": settings(1, bundle).models["digits"].signals, **more.pop("model", {})}
    with forger(behave) as address:
        config = settings(address, bundle, accept_verdicts=True, models={"digits": model}, **more)
        guard = Guard.open(config)
        guard.is_blocking = False  # whatever else this machine does
        with running(config, guard) as relay:
            yield relay


def writing(*texts: str, answer: bytes = GOOD) -> Behave:
    def behave(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(tuple((METADATA_KEY, value) for value in texts))
        if request == b"fail":
            context.abort(grpc.StatusCode.UNAVAILABLE, "refused behind")
        return answer

    return behave


def counted(relay: Running, line: str) -> float:
    samples = [
        line_of_metrics for line_of_metrics in relay.metrics.splitlines() if line_of_metrics.startswith(line + " ")
    ]
    return float(samples[0].rpartition(" ")[2]) if samples else 0.0


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_an_unscored_verdict_counts_as_unscored_and_fails_as_it_is_said_here(fail: str, bundle: Path) -> None:
    behind = Verdict("digits", "v1", unscored="queue_full").to_metadata()
    with accepting(bundle, writing(behind), mode="enforce", fail=fail) as relay:
        done = call(relay.target)
        assert counted(relay, 'tocsin_unscored_total{model="digits",reason="queue_full"}') == 1
        assert counted(relay, "tocsin_relay_accepted_verdicts_total") == 1
        if fail == "open":
            assert done.code() is grpc.StatusCode.OK and tocsin.verdict(done).unscored == "queue_full"
        else:
            assert done.code() is grpc.StatusCode.UNAVAILABLE and "queue_full" in done.details()
            assert tocsin.verdict(done).action == "block"
            assert counted(relay, 'tocsin_actions_total{action="refused",model="digits"}') == 1


def test_an_alarm_from_behind_obeys_what_is_done_about_alarms_here(bundle: Path) -> None:
    blocks = {"on_alarm": {"critical": "block"}}
    with accepting(bundle, writing(ALARM), mode="enforce", model=blocks) as relay:
        done = call(relay.target)
        assert done.code() is grpc.StatusCode.PERMISSION_DENIED and tocsin.verdict(done).action == "block"
    blocked_behind = text(alarm="critical", action="block", p=[0.001])
    with accepting(bundle, writing(blocked_behind), mode="enforce") as relay:
        done = call(relay.target)
        assert done.code() is grpc.StatusCode.OK and tocsin.verdict(done).action == "flag"
        failed = call(relay.target, b"fail")  # nothing is to be done: what was done stays
        assert failed.details() == "refused behind" and tocsin.verdict(failed).action == "block"


@pytest.mark.parametrize("mode", MODES)
def test_the_verdict_from_behind_is_the_only_one(mode: str, bundle: Path) -> None:
    with accepting(bundle, writing(ALARM, FORGED), mode=mode) as relay:
        done = call(relay.target)
    (reported,) = verdicts(done.trailing_metadata())
    assert json.loads(reported)["p"] == [0.99]  # the last is the one of whoever is nearest


MALFORMED = {
    "deep": "[" * 8_000,
    "deeper": '{"model":' * 1_500,
    "long": text(id="x" * 7_000),
    "digits": '{"model":"digits","p":[' + "9" * 400 + "]}",
    "too many digits": '{"model":"digits","p":[' + "1" * 5_000 + "]}",
    "a large float": '{"model":"digits","p":[1e999]}',
    "NaN": '{"model":"digits","alarm":"critical","p":[NaN]}',
    "not a probability": text(p=[1.5]),
    "negative": text(p=[-0.1]),
    "a boolean": text(p=[True]),
    "no p-value": text(p=[]),
    "too many": text(p=[0.5] * 65),
    "no model": json.dumps({"p": [0.5]}),
    "another model": text(model="nope"),
    "no such severity": text(alarm="disaster"),
    "no such severity of a row": text(p=[0.5, 0.4], rows=2, alarm="warning", alarmed={"0": "disaster"}),
    "a row's alarm alone": text(p=[0.5, 0.4], rows=2, alarmed={"0": "critical"}),
    "an object for an alarm": text(alarm={"a": 1}),
    "a list for an alarm": text(alarm=["x"]),
    "a number for an alarm": text(alarm=5),
    "no such reason": '{"model":"digits","unscored":"x"}',
    "an object for a reason": '{"model":"digits","unscored":{"x":1}}',
    "escapes in a reason": '{"model":"digits","unscored":"evil\\n\\u001b[31m"}',
    "half a character": '{"model":"digits","bundle":"\\ud800","p":[0.1]}',
    "half a character in a name": '{"model":"digits","p":[0.1],"detectors":{"\\ud800":0.1}}',
    "a row that is not there": text(p=[0.5, 0.4], rows=2, alarm="critical", alarmed={"-5": "critical"}),
    "fewer rows than p-values": text(p=[0.5, 0.4], rows=1),
    "rows of another kind": text(p=[0.5, 0.4], rows="2"),
    "decisions of another kind": text(decide=["x"], p_correct=[1], worth=[1]),
    "decisions of other rows": text(decide=["serve", "serve"], p_correct=[1, 1], worth=[1, 1]),
    "null": "null",
    "a string": '"x"',
    "empty": "",
}


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_what_is_no_verdict_is_as_if_it_were_not_there_and_counted(mode: str, bundle: Path) -> None:
    written: list[str] = []

    def behave(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(((METADATA_KEY, written[-1]),))
        return GOOD

    model = {"on_alarm": {"critical": "retry", "warning": "block"}, "retry": {"most": 1}}
    with accepting(bundle, behave, mode=mode, fail="closed", model=model) as relay:
        with grpc.insecure_channel(relay.target, options=[("grpc.max_metadata_size", 1 << 20)]) as channel:
            for number, (name, malformed) in enumerate(MALFORMED.items(), 1):
                written.append(malformed)
                response, done = channel.unary_unary(INFER).with_call(b"x", timeout=60)
                assert response == GOOD, name
                (reported,) = verdicts(done.trailing_metadata())
                assert Verdict.from_metadata(reported).bundle != "sha256:forged" and tocsin.verdict(done).pvalues, name
                assert counted(relay, 'tocsin_relay_not_understood_total{what="verdict"}') == number, name
        assert counted(relay, "tocsin_relay_accepted_verdicts_total") == 0
        assert counted(relay, "tocsin_relay_connections") <= 1


@pytest.mark.parametrize("malformed", [name for name in MALFORMED if "such" not in name and name != "another model"])
def test_reading_what_is_no_verdict_raises_value_error_and_nothing_else(malformed: str) -> None:
    if malformed == "a row's alarm alone":
        return  # to be read it is enough; to be acted upon it is not
    with pytest.raises(ValueError, match="does not hold a verdict"):
        Verdict.from_metadata(MALFORMED[malformed])


# -- what callers are told


def large(request: bytes, context: Any) -> bytes:
    """A batch of 64 rows, and trailers of the server's own."""
    context.set_trailing_metadata(tuple((f"x-part-{n:02}", "v" * 900) for n in range(int(request))))
    return inference(safe_traffic(64), slice(0, 64))


def list_size(metadata: Any) -> int:
    return sum(len(key) + len(value) + 32 for key, value in metadata)


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_verdicts_fit_what_callers_take_in_trailers(mode: str, bundle: Path) -> None:
    with forger(large) as address, running(settings(address, bundle, mode=mode)) as relay:
        outcomes = {}
        for parts, limit in ((0, None), (7, None), (7, 7_000), (7, 6_700), (8, None), (3, 3_000)):
            options: dict[str, Any] = {}
            if limit is not None:  # C-core announces the second of them, and takes the first for certain
                options = {"grpc.max_metadata_size": limit, "grpc.absolute_max_metadata_size": limit}
            done = call(relay.target, b"%d" % parts, **options)
            assert done.code() is grpc.StatusCode.OK, done.details()
            assert list_size(done.trailing_metadata()) <= min(limit or USUAL_LIST_SIZE, USUAL_LIST_SIZE)
            verdict = tocsin.verdict(done)
            outcomes[parts, limit] = None if verdict is None else (verdict.rows, len(verdict.pvalues))
        assert outcomes[0, None] == (64, 64) and outcomes[7, None] == (64, 64)
        assert outcomes[7, 7_000] is not None and outcomes[7, 7_000][1] < 64
        assert outcomes[7, 6_700] is None
        left_out = list(outcomes.values()).count(None)
        assert counted(relay, 'tocsin_relay_cut_verdicts_total{how="left_out"}') == left_out
        shortened = sum(1 for delivered in outcomes.values() if delivered is not None and delivered[1] < 64)
        assert counted(relay, 'tocsin_relay_cut_verdicts_total{how="shortened"}') == shortened


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_a_late_response_says_so(mode: str, fail: str, bundle: Path) -> None:
    with forger(lambda request, context: GOOD) as address:
        config = settings(address, bundle, mode=mode, fail=fail, scoring_budget="20ms")
        guard = Guard.open(config)
        goes_on = hold_scores(guard)
        with running(config, guard) as relay:
            done = call(relay.target)
            refused = mode == "enforce" and fail == "closed"
            assert done.code() is (grpc.StatusCode.UNAVAILABLE if refused else grpc.StatusCode.OK)
            verdict = tocsin.verdict(done)
            assert (verdict.model, verdict.unscored) == ("digits", "late")
            assert verdict.action == ("block" if refused else "pass")
            goes_on.set()
