"""Claims about token streams: parallel answers are judged apart or together, and streams end well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.parts import Running, running
from benchmarks.harness.serving import serving
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as service
from tests.middleware.protocols.bundles import bundle_of
from tests.middleware.protocols.vllm_streams import METHOD, chunk, complete, guard, interleaved, judged_pieces

import tocsin
from tocsin.configuration.config import Config
from tocsin.grpc_wire.deframer import framed
from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.sink import Scored, Sink
from tocsin.protocols.layouts import Layouts
from tocsin_calibration import Bundle
from tocsin_detectors import Observations

RNG = np.random.default_rng(8)
USUAL, STRANGE = -0.3, -6.0  # log-probabilities of tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Path:
    """A bundle that judges a whole answer by its tokens."""
    logprobs = np.log(RNG.uniform(0.3, 1, (300, 6))).astype(np.float32)
    return bundle_of(folder / "tokens.tocsin", ["mean_surprisal"], Observations({"token_logprobs": logprobs}))


@pytest.fixture(scope="module")
def each(folder: Path) -> Path:
    """A bundle that judges each token, with a promise for the whole stream."""
    logprobs = np.log(RNG.uniform(0.3, 1, (400, 1))).astype(np.float32)
    safe = Observations({"token_logprobs": logprobs})
    return bundle_of(folder / "each.tocsin", ["max_surprisal"], safe, sessions=True)


def test_parallel_answers_are_judged_apart(tokens: Path) -> None:
    messages = interleaved([USUAL] * 6, [STRANGE] * 6, [USUAL] * 4)
    call, pieces = judged_pieces(guard(tokens), messages)
    assert [piece.sequence for piece in pieces] == [0, 1, 2]
    assert [piece.verdict and piece.verdict.severity for piece in pieces] == [None, "warning", None]
    assert sorted(place for piece in pieces for place in piece.message_indices) == list(range(len(messages)))
    assert call.verdict is pieces[1].verdict
    bundle = Bundle.read(tokens)
    alone = Observations({"token_logprobs": np.full((1, 4), USUAL, np.float32)})
    assert pieces[2].verdict is not None
    assert pieces[2].verdict.pvalues == bundle.require_promise().judge(bundle.scorer(alone)).pvalues
    _, pieces = judged_pieces(guard(tokens, judge=3), messages)
    assert [(piece.sequence, len(piece.message_indices)) for piece in pieces[:5]] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (0, 3),
        (1, 3),
    ]


def test_answers_that_are_not_streamed_are_judged_apart_too(tokens: Path) -> None:
    _, pieces = judged_pieces(guard(tokens, judge="message"), [complete(0, *[USUAL] * 5), complete(1, *[STRANGE] * 5)])
    assert [piece.verdict and piece.verdict.severity for piece in pieces] == [None, "warning"]


def test_a_session_that_is_a_stream_ends_with_it_each_answer_its_own(each: Path) -> None:
    class Ended:
        severities: list[str | None] = []  # noqa: RUF012

        def scored(self, batch: Any) -> None:
            self.severities += batch.ended or []

        def unscored(self, call: Any) -> None:
            raise AssertionError(call.verdict)

    by = guard(each, judge="message", session="stream")
    by.sinks.append(Ended())  # type: ignore[arg-type]
    call, pieces = judged_pieces(by, interleaved([USUAL] * 5, [USUAL, USUAL, STRANGE]))
    assert not Ended.severities
    sessions = [by.models["m"].session_of(piece) for piece in pieces if piece.verdict]
    assert len(set(sessions)) == 2 and sessions[0] != sessions[1]
    by.on_call_closed(call)
    by.on_call_closed(call)
    assert sorted(Ended.severities, key=str) == [None, "warning"]
    assert len(by.models["m"].scoring.judge.sessions) == 0  # type: ignore[arg-type]
    late = by.call(METHOD, {})
    assert late is not None
    piece = late.on_response_message(chunk(0, 1, USUAL).SerializeToString())
    by.on_call_closed(late)  # what was told last is judged still
    assert piece is not None and len(Ended.severities) == 2
    by.judge([piece])
    assert len(Ended.severities) == 3


# -- on the wire


class Engine(service.VllmEngineServicer):  # type: ignore[misc]
    """An engine that sends messages and records cancellations."""

    def __init__(self, messages: Callable[[Any], Iterator[Any]]) -> None:
        self._messages = messages
        self.requests: list[Any] = []
        self.cancelled = futures.Future[bool]()
        self.aborted = futures.Future[list[str]]()

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        context.add_callback(lambda: self.cancelled.done() or self.cancelled.set_result(not context.is_active()))
        yield from self._messages(request)

    def Abort(self, request: Any, context: Any) -> Any:
        self.aborted.set_result(list(request.request_ids))
        return vllm.AbortResponse()


@contextmanager
def engine(messages: Callable[[Any], Iterator[Any]]) -> Iterator[tuple[Engine, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    served_engine = Engine(messages)
    service.add_VllmEngineServicer_to_server(served_engine, server)
    with serving(server) as address:
        yield served_engine, address


@contextmanager
def guarded(bundle: Path, upstream: str, **more: Any) -> Iterator[tuple[Running, Any]]:
    mode = more.pop("mode", "enforce")
    config = Config(
        listen="127.0.0.1:0", upstream=upstream, mode=mode, metrics=None, admin=None, scoring_budget="2s",
        models={"m": {"bundle": bundle, "protocol": "vllm", "session": "stream", **more}},
    )  # fmt: skip
    with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
        yield relay, service.VllmEngineStub(channel)


REQUEST = vllm.GenerateRequest(request_id="r1", text="2 + 2 =", sampling_params=vllm.SamplingParams(n=2), stream=True)
ENDING = {"complete": {"finish_reason": "content_filter"}}
BLOCKS = {"judge": "message", "on_alarm": {"warning": "block"}}


def test_a_stopped_stream_ends_as_the_caller_knows_it_one_end_for_each_answer(each: Path) -> None:
    astray = interleaved([USUAL] * 3, [USUAL, USUAL, STRANGE, USUAL])
    with engine(lambda request: iter(astray)) as (_engine, upstream):
        with guarded(each, upstream, **BLOCKS, block={"ending": ENDING}) as (_, stub):
            call = stub.Generate(REQUEST, timeout=60)
            got = list(call)
            assert call.code() is grpc.StatusCode.OK
            assert tocsin.verdict(call).action == "block"
        assert [message.chunk.index for message in got[:5]] == [0, 1, 0, 1, 0]
        ends = [(message.complete.index, message.complete.finish_reason) for message in got[5:]]
        assert ends == [(0, "content_filter"), (1, "content_filter")]
        with guarded(each, upstream, **BLOCKS) as (_, stub):
            call = stub.Generate(REQUEST, timeout=60)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_engine_is_told_that_a_stream_was_stopped(each: Path) -> None:
    def endless(request: Any) -> Iterator[Any]:
        yield chunk(0, 1, STRANGE)
        served_engine.cancelled.result(timeout=60)  # not until it is told

    with engine(endless) as (served_engine, upstream), guarded(each, upstream, **BLOCKS) as (_, stub):
        with pytest.raises(grpc.RpcError):
            list(stub.Generate(REQUEST, timeout=60))
        assert served_engine.cancelled.result(timeout=60)
        assert served_engine.aborted.result(timeout=60) == ["r1"]


@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_answers_reach_the_caller_in_their_order(tokens: Path, mode: str) -> None:
    messages = interleaved([USUAL] * 7, [USUAL] * 5, [USUAL] * 2)
    with engine(lambda request: iter(messages)) as (_, upstream):
        for judge in ("message", 2, "end"):
            with guarded(tokens, upstream, mode=mode, judge=judge, ask=3) as (_, stub):
                got = list(stub.Generate(REQUEST, timeout=60))
            for message in messages:
                message.chunk.ClearField("output_logprobs") if message.HasField("chunk") else None
            assert got == messages, judge
            messages = interleaved([USUAL] * 7, [USUAL] * 5, [USUAL] * 2)


@pytest.mark.parametrize("mode", ["observe", "annotate"])
def test_outside_of_enforce_no_token_waits_for_its_judgement(tokens: Path, mode: str) -> None:
    first_token_received = futures.Future[bool]()

    def messages(request: Any) -> Iterator[Any]:
        assert request.sampling_params.logprobs == 3
        yield chunk(0, 1, USUAL)
        first_token_received.result(timeout=60)  # no end before the first token was seen
        yield complete(0)

    with engine(messages) as (_, upstream), guarded(tokens, upstream, mode=mode, judge="end", ask=3) as (_, stub):
        got = []
        for message in stub.Generate(REQUEST, timeout=60):
            got.append(message)
            first_token_received.done() or first_token_received.set_result(True)
    assert len(got) == 2 and not got[0].chunk.HasField("output_logprobs")


def test_a_candidate_without_a_promise_for_sessions_is_not_asked_to_end_one(each: Path, folder: Path) -> None:
    logprobs = np.log(RNG.uniform(0.3, 1, (300, 1))).astype(np.float32)
    candidate = bundle_of(folder / "candidate.tocsin", ["max_surprisal"], Observations({"token_logprobs": logprobs}))
    by = guard(each, judge="message", session="stream", shadow=candidate)
    call, pieces = judged_pieces(by, [chunk(0, 1, USUAL), complete(0)])
    by.on_call_closed(call)
    assert len(pieces) == 2 and len(by.models["m"].scoring.judge.sessions) == 0  # type: ignore[arg-type]


class Rows(Sink):
    """Each message's place, p-value and severity, or why it has none; and how sessions ended."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, str | None]] = []
        self.unjudged: list[tuple[int, str | None]] = []
        self.ended: list[str | None] = []

    def scored(self, batch: Scored) -> None:
        self.ended += batch.ended or []
        for call in batch.calls:
            assert call.verdict is not None
            verdict = call.verdict
            self.rows += zip(call.message_indices, verdict.pvalues, verdict.severities, strict=True)

    def unscored(self, call: Call) -> None:
        self.unjudged += [(place, call.verdict and call.verdict.unscored) for place in call.message_indices]


@pytest.mark.parametrize("parallel", [1, 3])
def test_tokens_that_come_together_are_judged_as_one_by_one(
    each: Path, parallel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Any = guard(each, judge="message", session="stream").methods[METHOD]
    layouts = method._layouts  # all that other tests have sent, after which another structure may not pay
    monkeypatch.setattr(method, "_layouts", Layouts(layouts._kind, layouts._exact))
    rng = np.random.default_rng(parallel)
    messages: list[Any] = []
    for at in range(90):  # ids that take one, two and three bytes, and logarithms, of which some alarm
        logprob = STRANGE if at in (40, 41, 42, 43) else float(np.log(rng.uniform(0.3, 1)))
        messages.append(chunk(at % parallel, int(rng.choice([5, 300, 20_000])) + at, logprob))
    messages += [complete(index) for index in range(parallel)]
    outcomes = []
    for together in (True, False):
        by, rows = guard(each, judge="message", session="stream"), Rows()
        by.sinks.append(rows)
        verdicts = []
        for _ in range(2):  # of the second stream, all structures have been met
            call = by.call(METHOD, {})
            assert isinstance(call, StreamedCall)
            pieces: list[Call] = []
            if together:
                run = MessageRun(call)
                contents = [framed(message.SerializeToString()) for message in messages]
                run.add(b"".join(contents), [len(content) for content in contents])
                pieces = by.read_run(run)
                runs = [piece.responses for piece in pieces if isinstance(piece, MessageRun)]
            else:
                pieces = [call.on_response_message(message.SerializeToString()) or call for message in messages]
            by.judge(pieces)
            by.on_call_closed(call)
            assert not call.pending and call.is_closed
            verdicts.append(call.verdict and call.verdict.to_metadata())
        if together and parallel == 1:
            assert runs == [90]
        outcomes.append((sorted(rows.rows, key=lambda row: row[0]), sorted(rows.unjudged), rows.ended, verdicts))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == 180 and outcomes[0][2] and outcomes[0][3][0]
