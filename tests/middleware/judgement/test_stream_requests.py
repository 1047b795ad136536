"""Claim: on a stream of requests, each response is judged with the request that it answers, or with none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.parts import STREAM_INFER, quick_bundle, running, safe_traffic, settings
from benchmarks.harness.serving import serving
from tritonclient.grpc import service_pb2 as triton

import tocsin
from tocsin.configuration.config import Config
from tocsin.judgement import stream_requests
from tocsin.judgement.guard import Guard
from tocsin.judgement.sink import Scored
from tocsin.judgement.stream_requests import StreamRequests
from tocsin.protocols.protocol import preset

SAFE = safe_traffic(30, seed=4)
SIGNALS = {"probs": "response.outputs.probs", "embedding": "request.inputs.x"}
PATIENT = {"scoring_budget": "30s"}  # however slow the machine is that tests run on
STRANGE = np.full((1, 8), 40.0, np.float32)
METHOD = preset("oip")[STREAM_INFER]


def request(name: str, x: Any, **more: Any) -> bytes:
    message = triton.ModelInferRequest(model_name="digits", id=name, **more)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 8])
    message.raw_input_contents.append(x.astype("<f4").tobytes())
    return bytes(message.SerializeToString())


def response(name: str, *, final: bool | None = None, content: bool = True, error: str = "") -> bytes:
    answer = triton.ModelInferResponse(model_name="digits", id=name)
    if content:
        answer.outputs.add(name="probs", datatype="FP32", shape=[1, 10])
        answer.raw_output_contents.append(SAFE["probs"][:1].astype("<f4").tobytes())
    if final is not None:
        answer.parameters["triton_final_response"].bool_param = final
    return bytes(triton.ModelStreamInferResponse(infer_response=answer, error_message=error).SerializeToString())


def names(requests: list[bytes]) -> list[str]:
    return [triton.ModelInferRequest.FromString(request).id for request in requests]


def late(requests: Iterator[bytes]) -> Iterator[bytes]:
    yield from map(response, names(list(requests)))


def backwards(requests: Iterator[bytes]) -> Iterator[bytes]:
    yield from map(response, names(list(requests))[::-1])


def several(requests: Iterator[bytes]) -> Iterator[bytes]:
    """Three answers each, all at a time, and a last message that holds nothing."""
    requested = names(list(requests))
    for _ in range(3):
        yield from (response(name, final=False) for name in requested)
    yield from (response(name, final=True, content=False) for name in requested)


def in_step(requests: Iterator[bytes]) -> Iterator[bytes]:
    for request in requests:
        yield response(names([request])[0])


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, behaviour: Callable[[Iterator[bytes]], Iterator[bytes]]) -> None:
        self._behaviour = behaviour

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._behaviour(requests))


@contextmanager
def server(behaviour: Any, *interceptors: Any) -> Iterator[str]:
    started = grpc.server(futures.ThreadPoolExecutor(4), interceptors=interceptors)
    started.add_generic_rpc_handlers((Handler(behaviour),))
    with serving(started) as address:
        yield address


class Counts:
    """A sink that counts alarms by row, and reasons for unscored responses."""

    def __init__(self) -> None:
        self.alarms = self.judged = 0
        self.reasons: list[str] = []

    def scored(self, batch: Scored) -> None:
        self.judged += len(batch.calls)
        self.alarms += sum(call.verdict.severity == "critical" for call in batch.calls if call.verdict)

    def unscored(self, call: Any) -> None:
        self.reasons.append(call.verdict.unscored)

    def acted(self, call: Any, action: str) -> None: ...

    def shadowed(self, call: Any, severity: str | None) -> None: ...


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("requests") / "quick.tocsin"
    quick_bundle(path)
    return path


def guard(bundle: Path, mode: str = "annotate", **model: Any) -> tuple[Guard, Counts]:
    config = settings(
        1, bundle, mode=mode, models={"digits": {"bundle": bundle, "signals": SIGNALS, **PATIENT, **model}}
    )
    counts = Counts()
    return Guard.open(config, [counts]), counts


def ask(channel: Any, requests: list[bytes]) -> int:
    return len(list(channel.stream_stream(STREAM_INFER)(iter(requests), timeout=60)))


def through_relay(behaviour: Any, bundle: Path, requests: list[bytes], mode: str, **model: Any) -> tuple[int, Counts]:
    with server(behaviour) as address:
        config: Config = settings(
            address, bundle, mode=mode, models={"digits": {"bundle": bundle, "signals": SIGNALS, **PATIENT, **model}}
        )
        counts = Counts()
        with running(config, Guard.open(config, [counts])) as relay, grpc.insecure_channel(relay.target) as channel:
            got = ask(channel, requests)
            assert relay.sidecar.relay.context.memory.remaining == config.max_memory, "what was kept is given back"
        return got, counts


def through_client(behaviour: Any, bundle: Path, requests: list[bytes], mode: str, **model: Any) -> tuple[int, Counts]:
    by, counts = guard(bundle, mode, **model)
    with server(behaviour) as address, tocsin.guard_channel(grpc.insecure_channel(address), by) as channel:
        return ask(channel, requests), counts


def through_aio(behaviour: Any, bundle: Path, requests: list[bytes], mode: str, **model: Any) -> tuple[int, Counts]:
    by, counts = guard(bundle, mode, **model)

    async def go(address: str) -> int:
        async with tocsin.guard_channel(grpc.aio.insecure_channel(address), by) as channel:
            call = channel.stream_stream(STREAM_INFER)(iter(requests), timeout=60)
            return len([message async for message in call])

    with server(behaviour) as address:
        return asyncio.run(go(address)), counts


def through_server(behaviour: Any, bundle: Path, requests: list[bytes], mode: str, **model: Any) -> tuple[int, Counts]:
    by, counts = guard(bundle, mode, **model)
    with (
        server(behaviour, tocsin.server_interceptor(by)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        return ask(channel, requests), counts


POSITIONS = [through_relay, through_client, through_aio, through_server]


@pytest.mark.parametrize("through", POSITIONS)
@pytest.mark.parametrize(("behaviour", "answers"), [(late, 1), (backwards, 1), (several, 3)])
def test_a_response_is_judged_with_the_request_that_has_its_id(
    through: Any, behaviour: Any, answers: int, bundle: Path
) -> None:
    for place in (0, 9):
        inputs = [SAFE["embedding"][at : at + 1] for at in range(10)]
        inputs[place] = STRANGE
        requests = [request(f"r{at}", x) for at, x in enumerate(inputs)]
        got, counts = through(behaviour, bundle, requests, "enforce")
        assert got == 10 * answers + (10 if behaviour is several else 0)
        assert (counts.judged, counts.alarms, counts.reasons) == (10 * answers, answers, [])


@pytest.mark.parametrize("through", POSITIONS)
def test_without_ids_requests_are_matched_in_turn_where_each_has_one_response(through: Any, bundle: Path) -> None:
    inputs = [STRANGE, *(SAFE["embedding"][at : at + 1] for at in range(9))]
    requests = [request("", x) for x in inputs]
    got, counts = through(late, bundle, requests, "annotate", in_turn=True)
    assert (got, counts.judged, counts.alarms, counts.reasons) == (10, 10, 1, [])
    got, counts = through(late, bundle, requests, "annotate")
    assert (got, counts.judged, counts.reasons) == (10, 0, ["unmatched_request"] * 10)
    got, counts = through(several, bundle, requests[:1], "annotate")
    assert (got, counts.judged, counts.alarms, counts.reasons) == (4, 3, 3, []), "there is one that can be meant"


def test_with_fail_closed_what_cannot_be_matched_is_refused(bundle: Path) -> None:
    with server(late) as address:
        models = {"digits": {"bundle": bundle, "signals": SIGNALS, **PATIENT}}
        config = settings(address, bundle, mode="enforce", fail="closed", models=models)
        with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
            call = channel.stream_stream(STREAM_INFER)(iter([request("", STRANGE)] * 2), timeout=60)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "unmatched_request" in caught.value.details()


def test_session_and_group_are_those_of_the_request_that_is_answered(bundle: Path) -> None:
    by, _ = guard(bundle, session="request.id")
    call = by.call(STREAM_INFER, {})
    assert call is not None
    for name in ("a", "b"):
        call.on_request_message(request(name, SAFE["embedding"][:1]))
    pieces = [call.on_response_message(response(name)) for name in ("b", "a", "b")]
    assert [by.models["digits"].session_of(piece) for piece in pieces if piece is not None] == ["b", "a", "b"]


def test_messages_that_are_judged_together_answer_one_request(bundle: Path) -> None:
    by, counts = guard(bundle, judge="end")
    call = by.call(STREAM_INFER, {})
    assert call is not None
    call.on_request_message(request("a", SAFE["embedding"][:1]))
    call.on_request_message(request("b", STRANGE))
    assert [call.on_response_message(response(name)) for name in ("a", "b", "b", "a")] == [None] * 4
    pieces = call.ended()
    by.judge(pieces)
    assert [(list(piece.message_indices), piece.verdict and piece.verdict.severity) for piece in pieces] == [
        ([0, 3], None),
        ([1, 2], "critical"),
    ]
    assert counts.reasons == [] and call.kept_bytes == call.kept_requests == 0


def matched(requests: StreamRequests, name: str, **more: Any) -> str | None:
    request = requests.match(response(name, **more))
    return None if request is None else triton.ModelInferRequest.FromString(request).parameters["at"].string_param


def add(requests: StreamRequests, name: str, at: str) -> None:
    message = triton.ModelInferRequest(id=name)
    message.parameters["at"].string_param = at
    requests.add(message.SerializeToString())


def test_an_id_that_is_used_again_is_the_newest_request_once_the_older_has_its_answer() -> None:
    requests = StreamRequests(METHOD, in_turn=False)
    for at in "123":
        add(requests, "same", at)
        assert matched(requests, "same") == at
    assert matched(requests, "same") == "3", "a further answer"
    add(requests, "same", "4")
    assert matched(requests, "same") is None, "servers that answer several times may still answer the older"
    add(requests, "other", "5")
    assert matched(requests, "other", final=True) == "5"
    assert matched(requests, "other") is None, "there were to be no more"
    add(requests, "twice", "6")
    add(requests, "twice", "7")
    assert matched(requests, "twice") is None and matched(requests, "nobody") is None


def test_a_failed_request_has_had_its_turn() -> None:
    requests = StreamRequests(METHOD, in_turn=True)
    for at in "123":
        add(requests, "", at)
    assert matched(requests, "") == "1"
    assert matched(requests, "", content=False, error="no such shape") == "2"
    assert matched(requests, "") == "3" and matched(requests, "") is None


def test_what_waits_is_bounded_and_what_is_forgotten_is_not_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_requests, "MOST_WAITING", 20)
    for in_turn, name in ((False, "r{}"), (True, "r{}"), (True, "")):
        requests = StreamRequests(METHOD, in_turn=in_turn)
        for at in range(30):
            add(requests, name.format(at), str(at))
        assert requests.kept_bytes <= 21 * (stream_requests.OVERHEAD + 60) + 10 * stream_requests.OVERHEAD
        assert [matched(requests, name.format(at)) for at in range(30)] == [None] * 10 + [
            str(at) for at in range(10, 30)
        ]
        for at in range(500):
            add(requests, name.format(at), str(at))
        assert requests.kept_bytes <= 60 * (stream_requests.OVERHEAD + 60)
        while requests.forget_oldest():
            pass
        requests.forget()
        assert requests.kept_bytes == 0


def test_requests_that_wait_count_as_memory_and_are_forgotten_when_there_is_none(bundle: Path) -> None:
    big = [request(f"{at}" + "n" * 4_000, SAFE["embedding"][at : at + 1]) for at in range(20)]
    models = {"digits": {"bundle": bundle, "signals": SIGNALS, **PATIENT}}
    with server(late) as address:
        counts = Counts()
        config = settings(address, bundle, max_memory="40KiB", max_message="8KiB", models=models)
        with running(config, Guard.open(config, [counts])) as relay, grpc.insecure_channel(relay.target) as channel:
            assert ask(channel, big) == 20
            assert relay.sidecar.relay.context.memory.remaining == config.max_memory
    assert counts.judged and set(counts.reasons) == {"unmatched_request"}
    assert counts.judged + len(counts.reasons) == 20
