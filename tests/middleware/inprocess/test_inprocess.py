"""Claims about the client wrapper and the server interceptor, sync and aio, against real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from benchmarks.harness.model_server import Model, model_server
from benchmarks.harness.parts import INFER, STREAM_INFER, far_away, inference, running, safe_traffic, settings, streamed
from benchmarks.harness.serving import serving
from prometheus_client import CollectorRegistry

import tocsin
from tocsin.inprocess.capture import Capture
from tocsin.protocols import oip
from tocsin.verdict import METADATA_KEY

SAFE = safe_traffic(8, seed=21)
ANSWERS = {
    **{b"safe %d" % row: inference(SAFE, slice(row, row + 1)) for row in range(8)},
    b"far": inference(far_away(1), slice(0, 1)),
}


@pytest.fixture
def guard(bundle: Path) -> tocsin.Guard:
    return tocsin.Guard.open(settings(1, bundle))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with model_server() as (model, address):
        model.answers = ANSWERS
        yield address


def test_a_guarded_channel_gives_the_relays_verdicts(bundle: Path, guard: tocsin.Guard, server: str) -> None:
    with running(settings(server, bundle, scoring_budget="10s")) as relay:
        for request, answer in ANSWERS.items():
            with grpc.insecure_channel(relay.target) as relayed:
                _, call = relayed.unary_unary(INFER).with_call(request, timeout=60)
            with tocsin.guard_channel(grpc.insecure_channel(server), guard) as guarded:
                response, guarded_call = guarded.unary_unary(INFER).with_call(request, timeout=60)
            assert response == answer
            assert tocsin.verdict(guarded_call).to_metadata() == tocsin.verdict(call).to_metadata()


def test_messages_and_metadata_are_those_of_the_bare_channel(guard: tocsin.Guard, server: str) -> None:
    serialize, deserialize = oip.Request.SerializeToString, oip.Response.FromString
    request = oip.Request(model_name="x", id="7")
    with grpc.insecure_channel(server) as bare, tocsin.guard_channel(grpc.insecure_channel(server), guard) as guarded:
        plain, plain_call = bare.unary_unary(INFER, serialize, deserialize).with_call(request, metadata=(("x-a", "1"),))
        ours, our_call = guarded.unary_unary(INFER, serialize, deserialize).with_call(request, metadata=(("x-a", "1"),))
        assert ours == plain
        stripped = [pair for pair in our_call.trailing_metadata() if pair[0] != METADATA_KEY]
        assert stripped == list(plain_call.trailing_metadata())
        assert our_call.code() == plain_call.code() and our_call.details() == plain_call.details()
        assert list(our_call.initial_metadata()) == list(plain_call.initial_metadata())


def test_plain_calls_and_futures_are_judged_once(guard: tocsin.Guard, server: str) -> None:
    registry = CollectorRegistry()
    tocsin.export_metrics(guard, registry)
    with tocsin.guard_channel(grpc.insecure_channel(server), guard) as channel:
        call = channel.unary_unary(INFER)
        assert call(b"far") == ANSWERS[b"far"]
        future = call.future(b"far")
        done: list[Any] = []
        future.add_done_callback(done.append)
        assert future.result() == future.result() == ANSWERS[b"far"]
        assert tocsin.verdict(future).severity == "critical"
        assert future.done() and not future.cancelled() and future.exception() is None
    assert done == [future]
    total = sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "tocsin_responses_total"
    )
    assert total == 2


def test_who_takes_note_of_a_call_keeps_none_of_its_messages(bundle: Path, server: str) -> None:
    guard, calls = tocsin.Guard.open(settings(1, bundle)), list[Any]()
    guard.sinks.append(SimpleNamespace(scored=lambda batch: calls.extend(batch.calls)))  # type: ignore[arg-type]
    with tocsin.guard_channel(grpc.insecure_channel(server), guard) as channel:
        channel.unary_unary(INFER)(b"far")
    assert [(call.request, call.response) for call in calls] == [(None, None)]


def test_errors_and_other_kinds_of_call_pass_as_they_are(guard: tocsin.Guard, server: str) -> None:
    with tocsin.guard_channel(grpc.insecure_channel(server), guard) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"x", metadata=(("fail", "NOT_FOUND"), ("abort", "1")))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
        assert channel.unary_unary("/test.Model/Unary")(b"x") == b"x"
        assert list(channel.unary_stream("/test.Model/Down")(b"p")) == [b"p0", b"p1", b"p2"]
        assert channel.stream_unary("/test.Model/Up")(iter([b"a", b"b"])) == b"a|b"
        assert list(channel.stream_stream("/test.Model/Both")(iter([b"ab"]))) == [b"ba"]


async def test_a_guarded_aio_channel(guard: tocsin.Guard, server: str) -> None:
    async with tocsin.guard_channel(grpc.aio.insecure_channel(server), guard) as channel:
        call = channel.unary_unary(INFER)
        pending = [call(request) for request in ANSWERS]
        assert [await response for response in pending] == list(ANSWERS.values())
        assert (await tocsin.verdict(pending[-1])).severity == "critical"
        assert (await tocsin.verdict(call(b"far"))).alarm
        assert await pending[0].code() == grpc.StatusCode.OK and pending[0].done()
        assert [m async for m in channel.stream_stream("/test.Model/Both")(iter([b"ab"]))] == [b"ba"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"x", metadata=(("fail", "NOT_FOUND"), ("abort", "1")))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert tocsin.verdict(caught.value) is None


@contextmanager
def intercepted(guard: tocsin.Guard) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[tocsin.server_interceptor(guard)])
    model = Model()
    model.answers = ANSWERS
    server.add_generic_rpc_handlers((model,))
    with serving(server) as address:
        yield address


def test_a_server_interceptor_annotates_and_alters_nothing(guard: tocsin.Guard, server: str) -> None:
    with intercepted(guard) as target, grpc.insecure_channel(target) as ours, grpc.insecure_channel(server) as plain:
        for request in ANSWERS:
            metadata = (("x-a", "1"),)
            response, call = ours.unary_unary(INFER).with_call(request, metadata=metadata)
            expected, bare = plain.unary_unary(INFER).with_call(request, metadata=metadata)
            assert response == expected
            assert [p for p in call.trailing_metadata() if p[0] != METADATA_KEY] == list(bare.trailing_metadata())
            assert (tocsin.verdict(call).severity == "critical") == (request == b"far")
        assert ours.unary_unary("/test.Model/Unary")(b"x") == b"x"
        assert list(ours.unary_stream("/test.Model/Down")(b"p")) == [b"p0", b"p1", b"p2"]
        with pytest.raises(grpc.RpcError) as caught:
            ours.unary_unary(INFER)(b"x", metadata=(("fail", "NOT_FOUND"), ("abort", "1")))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


@asynccontextmanager
async def intercepted_aio(guard: tocsin.Guard) -> AsyncIterator[str]:
    async def infer(request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("kept", "yes"),))
        return oip.Response.FromString(ANSWERS[request.id.encode()])

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            if details.method != INFER:
                return grpc.unary_unary_rpc_method_handler(echo)
            return grpc.unary_unary_rpc_method_handler(
                infer,
                request_deserializer=oip.Request.FromString,
                response_serializer=oip.Response.SerializeToString,
            )

    server = grpc.aio.server(interceptors=[tocsin.server_interceptor(guard)])
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_an_aio_server_interceptor(guard: tocsin.Guard) -> None:
    model = guard.models["digits"]
    rows = {**{b"safe %d" % row: SAFE.take(slice(row, row + 1)) for row in range(8)}, b"far": far_away(1)}
    severities = {
        name: model.scoring.promise.judge(model.scoring.scorer(row)).severities[0] for name, row in rows.items()
    }
    assert severities[b"far"] == "critical" and list(severities.values()).count("critical") == 1
    async with intercepted_aio(guard) as target, grpc.aio.insecure_channel(target) as channel:
        calls = {
            name: channel.unary_unary(INFER, oip.Request.SerializeToString, oip.Response.FromString)(
                oip.Request(id=name.decode())
            )
            for name in ANSWERS
        }
        for name, call in calls.items():
            assert await call == oip.Response.FromString(ANSWERS[name])
            assert ("kept", "yes") in list(await call.trailing_metadata())
            assert (await tocsin.verdict(call)).severity == severities[name]
        assert await channel.unary_unary("/any/Other")(b"x") == b"x"


def test_a_verdict_is_read_from_metadata_itself_and_absence_is_none() -> None:
    assert tocsin.verdict([("a", "b")]) is None
    assert tocsin.verdict(None) is None
    verdict = tocsin.verdict([(METADATA_KEY, tocsin.Verdict("m", unscored="shape").to_metadata())])
    assert (verdict.model, verdict.unscored, verdict.alarm) == ("m", "shape", False)
    with pytest.raises(ValueError, match="does not hold a verdict"):
        tocsin.verdict([(METADATA_KEY, "no json")])


def test_a_missing_deserializer_means_bytes() -> None:
    capture = Capture(None, None)
    message = capture.deserialize(b"x")
    assert message == b"x" and capture.content_of(message) == b"x"


# -- one verdict, written here

FORGED = '{"model":"digits","alarm":null,"action":"pass","p":[0.99],"bundle":"sha256:forged"}'
ALARM = '{"model":"digits","alarm":"critical","action":"flag","p":[0.001],"bundle":"sha256:behind"}'


class Forger(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Writes a verdict of its own, into initial and trailing metadata, whether it answers or fails."""

    def __init__(self, text: str = FORGED) -> None:
        self._text = text

    def service(self, details: Any) -> Any:
        if details.method == STREAM_INFER:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary)

    def _write(self, request: bytes, context: Any) -> None:
        context.send_initial_metadata(((METADATA_KEY, self._text), ("x-own", "1")))
        context.set_trailing_metadata(((METADATA_KEY, self._text), ("x-own", "2")))
        if request == b"fail":
            context.abort(grpc.StatusCode.INTERNAL, "failed")

    def _unary(self, request: bytes, context: Any) -> bytes:
        self._write(request, context)
        return ANSWERS[b"far"]

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            self._write(request, context)
            yield streamed(ANSWERS[b"far"])


@contextmanager
def forging(*interceptors: Any, text: str = FORGED) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=interceptors)
    server.add_generic_rpc_handlers((Forger(text),))
    with serving(server) as address:
        yield address


def verdicts(metadata: Any) -> list[str]:
    return [value for key, value in metadata or () if key == METADATA_KEY]


def failed(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_a_guarded_channel_shows_no_verdict_but_its_own(guard: tocsin.Guard) -> None:
    with forging() as address, tocsin.guard_channel(grpc.insecure_channel(address), guard) as channel:
        unary = channel.unary_unary(INFER)
        _, call = unary.with_call(b"x")
        assert len(verdicts(call.trailing_metadata())) == 1 and tocsin.verdict(call).severity == "critical"
        assert verdicts(call.initial_metadata()) == [] and dict(call.initial_metadata())["x-own"] == "1"
        future = unary.future(b"fail")
        for error in (failed(lambda: unary(b"fail")), failed(future.result), future.exception()):
            assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "failed")
            assert tocsin.verdict(error) is None and dict(error.trailing_metadata())["x-own"] == "2"
        stream = channel.stream_stream(STREAM_INFER)(iter([b"fail"]))
        error = failed(lambda: next(stream))
        assert error.code() is grpc.StatusCode.INTERNAL and tocsin.verdict(error) is None
        assert verdicts(stream.trailing_metadata()) == [] == verdicts(stream.initial_metadata())


async def test_a_guarded_aio_channel_shows_no_verdict_but_its_own(guard: tocsin.Guard) -> None:
    with forging() as address:
        async with tocsin.guard_channel(grpc.aio.insecure_channel(address), guard) as channel:
            call = channel.unary_unary(INFER)(b"x")
            await call
            assert len(verdicts(await call.trailing_metadata())) == 1
            assert (await tocsin.verdict(call)).severity == "critical"
            assert verdicts(await call.initial_metadata()) == []
            call = channel.unary_unary(INFER)(b"fail")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "failed")
            assert tocsin.verdict(caught.value) is None and await tocsin.verdict(call) is None
            stream = channel.stream_stream(STREAM_INFER)(iter([b"fail"]))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert tocsin.verdict(caught.value) is None and verdicts(await stream.trailing_metadata()) == []


@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_a_guarded_server_shows_no_verdict_but_its_own(mode: str, bundle: Path) -> None:
    guard_of_server = tocsin.Guard.open(settings(1, bundle, mode=mode))
    with forging(tocsin.server_interceptor(guard_of_server)) as address, grpc.insecure_channel(address) as channel:
        _, call = channel.unary_unary(INFER).with_call(b"x")
        assert len(verdicts(call.trailing_metadata())) == (mode != "observe")
        assert FORGED not in verdicts(call.trailing_metadata())
        error = failed(lambda: channel.unary_unary(INFER)(b"fail"))
        assert error.details() == "failed" and verdicts(error.trailing_metadata()) == []
        stream = channel.stream_stream(STREAM_INFER)(iter([b"fail"]))
        assert failed(lambda: next(stream)).details() == "failed" and verdicts(stream.trailing_metadata()) == []


def test_behind_an_annotating_relay_there_is_one_verdict(bundle: Path, guard: tocsin.Guard, server: str) -> None:
    with running(settings(server, bundle)) as relay:
        with tocsin.guard_channel(grpc.insecure_channel(relay.target), guard) as channel:
            _, call = channel.unary_unary(INFER).with_call(b"far")
            assert len(verdicts(call.trailing_metadata())) == 1 and tocsin.verdict(call).severity == "critical"


def accepting(bundle: Path) -> tuple[tocsin.Guard, CollectorRegistry]:
    accepting_guard = tocsin.Guard.open(settings(1, bundle, mode="enforce", accept_verdicts=True))
    registry = CollectorRegistry()
    tocsin.export_metrics(accepting_guard, registry)
    return accepting_guard, registry


def judged(registry: CollectorRegistry) -> float:
    samples = (sample for family in registry.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == "tocsin_responses_total")


def test_a_guarded_channel_takes_the_verdict_from_behind_where_that_is_configured(bundle: Path) -> None:
    accepting_guard, registry = accepting(bundle)
    with (
        forging(text=ALARM) as address,
        tocsin.guard_channel(grpc.insecure_channel(address), accepting_guard) as channel,
    ):
        _, call = channel.unary_unary(INFER).with_call(b"x")
        assert (tocsin.verdict(call).bundle, tocsin.verdict(call).pvalues) == ("sha256:behind", [0.001])
        assert len(verdicts(call.trailing_metadata())) == 1 and judged(registry) == 0
        assert tocsin.verdict(failed(lambda: channel.unary_unary(INFER)(b"fail"))).bundle == "sha256:behind"
    with (
        forging(text="nonsense") as address,
        tocsin.guard_channel(grpc.insecure_channel(address), accepting_guard) as channel,
    ):
        _, call = channel.unary_unary(INFER).with_call(b"x")
        assert tocsin.verdict(call).bundle != "sha256:behind" and judged(registry) == 1


async def test_so_does_a_guarded_aio_channel(bundle: Path) -> None:
    accepting_guard, registry = accepting(bundle)
    with forging(text=ALARM) as address:
        async with tocsin.guard_channel(grpc.aio.insecure_channel(address), accepting_guard) as channel:
            call = channel.unary_unary(INFER)(b"x")
            await call
            assert (await tocsin.verdict(call)).bundle == "sha256:behind" and judged(registry) == 0
            assert len(verdicts(await call.trailing_metadata())) == 1


def test_of_several_verdicts_the_nearest_is_read() -> None:
    assert tocsin.verdict([(METADATA_KEY, FORGED), (METADATA_KEY, ALARM)]).bundle == "sha256:behind"
