"""Claims about judgement on the way: who gets which verdict, and what counts as unscored."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, Running, far_away, hold_scores, inference, running, safe_traffic, settings

import tocsin
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip
from tocsin_calibration import Bundle

SAFE = safe_traffic(40, seed=11)


def broken(name: str, values: Any, datatype: str = "FP32", **message: Any) -> bytes:
    """A response whose tensor `name` is replaced."""
    parsed = oip.Response.FromString(inference(SAFE, slice(0, 1)))
    for position, tensor in enumerate(parsed.outputs):
        if tensor.name == name:
            tensor.datatype = datatype
            del tensor.shape[:]
            tensor.shape.extend(np.shape(values))
            parsed.raw_output_contents[position] = np.asarray(values).tobytes()
    for key, value in message.items():
        setattr(parsed, key, value)
    return bytes(parsed.SerializeToString())


ANSWERS = {
    **{b"safe %d" % row: inference(SAFE, slice(row, row + 1)) for row in range(40)},
    b"far": inference(far_away(1), slice(0, 1)),
    b"batch": inference(SAFE, slice(0, 5)),
    b"typed": inference(SAFE, slice(0, 1), raw=False),
    b"nan": broken("embedding", np.full((1, 8), np.nan, np.float32)),
    b"inf": broken("probs", np.full((1, 10), np.inf, np.float32)),
    b"no distribution": broken("probs", np.zeros((1, 10), np.float32)),
    b"wide": broken("embedding", np.zeros((1, 9), np.float32)),
    b"two rows": broken("embedding", np.zeros((2, 8), np.float32)),
    b"no rows": broken("embedding", np.zeros((0, 8), np.float32)),
    b"text": broken("probs", np.zeros((1, 10), np.float32), datatype="BYTES"),
    b"half": broken("probs", np.full((1, 10), 0.1, np.float16), datatype="FP16"),
    b"flat": broken("probs", np.full(10, 0.1, np.float32)),
    b"other": broken("probs", np.full((1, 10), 0.1, np.float32), model_name="stranger"),
    b"short": broken("probs", np.full((1, 10), 0.1, np.float32))[:-9],
    b"lying": inference(SAFE, slice(0, 1)).replace(SAFE["probs"][0].tobytes(), b"\0" * 40)[:-2] + b"\0\0",
    b"missing": inference(SAFE.__class__({"probs": SAFE["probs"]}), slice(0, 1)),
}


@pytest.fixture(scope="module")
def relay(bundle: Path) -> Iterator[Running]:
    with model_server() as (model, address), running(settings(address, bundle, max_message=4096)) as running_relay:
        model.answers = ANSWERS
        yield running_relay


def ask(relay: Running, request: bytes, *metadata: tuple[str, str]) -> Any:
    with grpc.insecure_channel(relay.target) as channel:
        response, call = channel.unary_unary(INFER).with_call(request, metadata=metadata, timeout=60)
    assert response == ANSWERS.get(request, request)
    return tocsin.verdict(call)


def counted(relay: Running, line: str) -> float:
    for sample in relay.metrics.splitlines():
        if sample.startswith(line + " "):
            return float(sample.rpartition(" ")[2])
    return 0.0


def test_the_verdict_is_what_the_bundle_says(relay: Running, bundle: Path) -> None:
    read = Bundle.read(bundle)
    promise = read.require_promise()
    for row in range(20):
        verdict = ask(relay, b"safe %d" % row)
        pvalues, details, severities, _ = promise.judge(read.scorer(SAFE.take(slice(row, row + 1))))
        assert verdict.pvalues == [pytest.approx(pvalues[0], rel=1e-5)]
        assert list(verdict.by_detector.values()) == pytest.approx(details[0], rel=1e-5)
        assert verdict.severity == severities[0]
        assert (verdict.model, verdict.version) == ("digits", "v1")
        assert read.digest.startswith(verdict.bundle)


def test_an_alarm_is_flagged_with_reasons_and_counted(relay: Running) -> None:
    series = 'tocsin_alarms_total{model="digits",severity="critical",version="v1"}'
    before = counted(relay, series)
    verdict = ask(relay, b"far")
    assert (verdict.alarm, verdict.severity, verdict.action) == (True, "critical", "flag")
    assert sorted(reason.partition(":")[0] for reason in verdict.reasons) == ["entropy", "mahalanobis"]
    assert counted(relay, series) == before + 1


def test_every_row_of_a_batch_is_a_response(relay: Running, bundle: Path) -> None:
    series = f'tocsin_responses_total{{decision="pass",method="{INFER}",model="digits",version="v1"}}'
    before = counted(relay, series)
    verdict = ask(relay, b"batch")
    alone = [ask(relay, b"safe %d" % row).pvalues[0] for row in range(5)]
    assert verdict.pvalues == pytest.approx(alone, rel=1e-4)
    flagged = sum(1 for severity in verdict.severities if severity)
    assert counted(relay, series) - before == 2 * (5 - flagged)


def test_typed_contents_and_a_missing_batch_axis_are_read(relay: Running) -> None:
    assert ask(relay, b"typed").pvalues == ask(relay, b"safe 0").pvalues
    assert ask(relay, b"flat").unscored is None
    assert ask(relay, b"half").unscored is None


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"nan", "not_finite"),
        (b"inf", "not_finite"),
        (b"no distribution", "not_finite"),
        (b"wide", "shape"),
        (b"two rows", "rows"),
        (b"no rows", "rows"),
        (b"text", "dtype"),
        (b"other", "unknown_model"),
        (b"short", "undecodable"),
        (b"missing", "missing_signal"),
        (b"\xff\xff", "undecodable"),
        (b"x" * 5000, "too_large"),
    ],
)
def test_what_cannot_be_scored_passes_with_its_reason(relay: Running, request_: bytes, reason: str) -> None:
    model = "other" if reason in ("unknown_model",) else "digits"
    series = f'tocsin_unscored_total{{model="{model}",reason="{reason}"}}'
    before = counted(relay, series)
    verdict = ask(relay, request_)
    assert (verdict.unscored, verdict.alarm, verdict.pvalues) == (reason, False, [])
    assert counted(relay, series) == before + 1


def test_one_broken_response_does_not_spoil_its_batch(bundle: Path) -> None:
    guard = Guard.open(settings(1, bundle))
    calls = []
    for request in (b"safe 1", b"nan", b"safe 2", b"no distribution"):
        call = guard.call(INFER, {})
        assert call is not None
        call.response = ANSWERS[request]
        calls.append(call)
    guard.judge(calls)
    assert [call.verdict.unscored for call in calls] == [None, "not_finite", None, "not_finite"]  # type: ignore[union-attr]


def test_gzip_is_scored_after_decompression(relay: Running) -> None:
    assert ask(relay, b"safe 3", ("compress", "gzip")).pvalues == ask(relay, b"safe 3").pvalues


def test_a_failed_call_is_not_a_response(relay: Running) -> None:
    with grpc.insecure_channel(relay.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(b"safe 1", metadata=(("fail", "NOT_FOUND"), ("abort", "1")))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    assert tocsin.verdict(caught.value) is None


def test_signals_may_come_from_the_request(bundle: Path, tmp_path: Path) -> None:
    config = settings(1, bundle)
    config.models["digits"].signals["embedding"] = type(config.models["digits"].signals["embedding"])(
        "request", "inputs.features"
    )
    guard = Guard.open(config)
    request = oip.Request(model_name="digits")
    request.inputs.add(name="features", datatype="FP32").shape.extend([1, 8])
    request.raw_input_contents.append(SAFE["embedding"][0].tobytes())
    call = guard.call(INFER, {})
    assert call is not None and call.wants_request
    call.request, call.response = request.SerializeToString(), ANSWERS[b"safe 0"]
    expected = Guard.open(settings(1, bundle)).call(INFER, {})
    assert expected is not None
    expected.response = ANSWERS[b"safe 0"]
    guard.judge([call])
    Guard.open(settings(1, bundle)).judge([expected])
    assert call.verdict is not None and expected.verdict is not None
    assert call.verdict.pvalues == expected.verdict.pvalues != []


def test_a_bundle_too_heavy_for_the_loop_is_scored_in_a_thread(bundle: Path) -> None:
    config = settings(1, bundle, scoring_budget="10s")  # a busy machine may take its time to change threads
    guard = Guard.open(config)
    guard.is_blocking = True
    with model_server() as (model, address):
        model.answers = ANSWERS
        with running(config.model_copy(update={"upstream": _address(address)}), guard) as relay:
            for row in range(20):
                assert ask(relay, b"safe %d" % row).unscored is None


def test_a_late_verdict_lets_the_response_go_and_is_counted(bundle: Path) -> None:
    config = settings(1, bundle, scoring_budget="20ms")
    guard = Guard.open(config)
    goes_on = hold_scores(guard)
    with model_server() as (model, address):
        model.answers = ANSWERS
        with running(config.model_copy(update={"upstream": _address(address)}), guard) as relay:
            assert ask(relay, b"safe 1").unscored == "late"
            goes_on.set()
            until(lambda: not relay.sidecar.relay.context.batcher._in_flight)
            assert counted(relay, 'tocsin_unscored_total{model="digits",reason="late"}') == 1


def test_without_a_bundle_responses_pass_and_count_as_unscored() -> None:
    with model_server() as (model, address), running(settings(address, None)) as relay:
        model.answers = ANSWERS
        assert ask(relay, b"far").unscored == "no_bundle"
        assert counted(relay, 'tocsin_unscored_total{model="digits",reason="no_bundle"}') == 1


def test_trace_ids_become_exemplars(relay: Running) -> None:
    import urllib.request

    trace = "0af7651916cd43dd8448eb211c80319c"
    ask(relay, b"far", ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    assert relay.sidecar.http is not None
    request = urllib.request.Request(
        f"http://{relay.sidecar.http.address}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    exemplars = [line for line in text.splitlines() if trace in line]
    assert any(line.startswith("tocsin_alarms_total") for line in exemplars)
    assert any(line.startswith("tocsin_pvalue_bucket") for line in exemplars)


def test_decompression_is_bounded(bundle: Path) -> None:
    from tocsin.protocols.messages import decompress
    from tocsin.unscored import Unscored

    bomb = gzip.compress(b"\0" * (64 << 20))
    with pytest.raises(Unscored) as caught:
        decompress(bomb, "gzip", 1 << 20)
    assert caught.value.reason == "too_large"
    with pytest.raises(Unscored) as caught:
        decompress(bomb[:-20], "gzip", 1 << 30)
    assert caught.value.reason == "undecodable"
    with pytest.raises(Unscored) as caught:
        decompress(b"x", "zstd", 1 << 20)
    assert caught.value.reason == "encoding"


def _address(text: str) -> Any:
    from tocsin.configuration.fields import Address

    host, _, port = text.rpartition(":")
    return Address(host, int(port))
