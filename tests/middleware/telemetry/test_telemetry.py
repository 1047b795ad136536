"""Claims about OpenTelemetry, against real OTLP receivers made of its protos."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    METHOD,
    SIGNALS,
    STREAM_INFER,
    Running,
    at_once,
    far_away,
    free_port,
    inference,
    running,
    safe_traffic,
    settings,
)  # fmt: skip
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families as parse_text

import tocsin
from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.errors import ConfigError
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.protocols.protocol import preset
from tocsin.telemetry.exporters import resource, span_exporter

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-1] + "0"


class Receiver:
    """What came, over gRPC and over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.resources: list[dict[str, str]] = []
        came = self

        class Traces(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:
                came.headers.append(dict(context.invocation_metadata()))
                came.traces(request)
                return trace_service_pb2.ExportTraceServiceResponse()

        class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:
                came.metrics.append(request)
                return metrics_service_pb2.ExportMetricsServiceResponse()

        self.grpc = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), self.grpc)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), self.grpc)
        self.grpc_port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.grpc.start()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    came.headers.append({name.lower(): value for name, value in self.headers.items()})
                    came.traces(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                elif self.path == "/v1/metrics":
                    came.metrics.append(metrics_service_pb2.ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def traces(self, request: Any) -> None:
        for resource_spans in request.resource_spans:
            self.resources.append(values(resource_spans.resource.attributes))
            for scope in resource_spans.scope_spans:
                self.spans += scope.spans

    def endpoint(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.grpc_port if protocol == 'grpc' else self.http.server_port}"

    def totals(self) -> dict[str, float]:
        """The last value of every sum, over its labels, and the count of every histogram."""
        totals: dict[str, float] = {}
        for scope in self.metrics[-1].resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                if metric.HasField("sum"):
                    assert metric.sum.is_monotonic and metric.sum.aggregation_temporality == 2
                    totals[metric.name] = sum(p.as_double or p.as_int for p in metric.sum.data_points)
                elif metric.HasField("histogram"):
                    for point in metric.histogram.data_points:
                        assert sum(point.bucket_counts) == point.count
                        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
                    totals[metric.name] = sum(p.count for p in metric.histogram.data_points)
        return totals


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    listening = Receiver()
    yield listening
    listening.grpc.stop(0)
    listening.http.shutdown()


def values(attributes: Any) -> dict[str, Any]:
    return {attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in attributes}


@contextmanager
def relayed(bundle: Path, telemetry: dict[str, Any], **more: Any) -> Iterator[Running]:
    safe = safe_traffic(100, seed=8)
    with model_server() as (model, address), running(settings(address, bundle, opentelemetry=telemetry, **more)) as it:
        model.answers = {b"%d" % row: inference(safe, slice(row, row + 1)) for row in range(100)}
        model.answers[b"far"] = inference(far_away(1), slice(0, 1))
        yield it


def send(relay: Running, request: bytes, times: int = 1, parent: str = SAMPLED) -> None:
    with grpc.insecure_channel(relay.target) as channel:
        for _ in range(times):
            metadata = (("traceparent", parent),) if parent else ()
            channel.unary_unary(INFER)(request, metadata=metadata, timeout=60)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_alarmed_call_is_a_span_in_its_callers_trace_whatever_the_share(
    bundle: Path, tmp_path: Path, receiver: Receiver, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
    (tmp_path / "headers").write_text("# a token\nAuthorization=Bearer 42\n")
    telemetry = {
        "endpoint": receiver.endpoint(protocol), "protocol": protocol, "traces": 0, "headers": tmp_path / "headers",
    }  # fmt: skip
    began = time.time_ns()
    with relayed(bundle, telemetry) as relay:
        send(relay, b"far")
        for row in range(20):
            send(relay, b"%d" % row, parent=UNSAMPLED)
        digest = relay.sidecar.relay.context.guard.models["digits"].scoring.digest
        alarms = [event["data"] for event in relay.sidecar.events.latest]
    assert len(receiver.spans) == len(alarms) < 10  # those of the safe ones that alarm too, and no others
    (span,) = [candidate for candidate in receiver.spans if values(candidate.attributes)["tocsin.alarm"] == "critical"][
        :1
    ]
    assert span.trace_id.hex() == SAMPLED.split("-")[1] and span.parent_span_id.hex() == SAMPLED.split("-")[2]
    assert began <= span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    attributes = values(span.attributes)
    assert span.name == attributes["rpc.method"] == INFER[1:] and attributes["rpc.system.name"] == "grpc"
    assert (attributes["tocsin.model"], attributes["tocsin.model.version"], attributes["tocsin.bundle"]) == (
        "digits",
        "v1",
        digest,
    )
    assert (
        attributes["tocsin.p"] == alarms[0]["p"]
        and attributes["tocsin.detector.entropy.p"] == alarms[0]["detectors"]["entropy"]
    )
    assert [value.string_value for value in attributes["tocsin.reasons"].values] == alarms[0]["reasons"]
    assert receiver.headers[0]["authorization"] == "Bearer 42"
    about = receiver.resources[0]
    assert about["service.name"] == "tocsin" and about["service.version"] == tocsin.__version__
    assert about["deployment.environment.name"] == "tests" and about["service.instance.id"]


@pytest.mark.parametrize(
    ("telemetry", "parent", "is_sampled"),
    [
        ({"traces": 1}, UNSAMPLED, True),
        ({"traces": 1}, "", True),
        ({"traces": 0}, SAMPLED, False),
        ({"traces": 0, "follow_callers": True}, SAMPLED, True),
        ({"traces": 0, "follow_callers": True}, UNSAMPLED, False),
        ({"traces": 0.6}, SAMPLED, True),  # its trace id ends in 0x8448...: 0.517 of the space
        ({"traces": 0.5}, SAMPLED, False),
    ],
)
def test_of_calls_without_an_alarm_the_share_is_kept_by_trace_id(
    bundle: Path, receiver: Receiver, telemetry: dict[str, Any], parent: str, is_sampled: bool
) -> None:
    quiet = {"models": {"digits": {"bundle": bundle, "signals": SIGNALS}}}
    with relayed(bundle, {"endpoint": receiver.endpoint("grpc"), **telemetry}, **quiet) as relay:
        send(relay, b"1", times=3, parent=parent)
        assert not relay.sidecar.events.latest  # a safe one without an alarm
    assert len(receiver.spans) == (3 if is_sampled else 0)


def test_a_stream_is_one_span_and_another_when_it_gets_graver(bundle: Path, receiver: Receiver) -> None:
    with relayed(bundle, {"endpoint": receiver.endpoint("grpc"), "traces": 1}) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            call = channel.stream_stream(STREAM_INFER)
            list(call(iter([b"1"] * 5 + [b"far"] * 5), metadata=(("traceparent", SAMPLED),)))
    assert [values(span.attributes)["tocsin.action"] for span in receiver.spans] == ["pass", "flag"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_metrics_come_as_a_scrape_would_have_them(bundle: Path, receiver: Receiver, protocol: str) -> None:
    telemetry = {
        "endpoint": receiver.endpoint(protocol), "protocol": protocol, "traces": None, "metrics": "100ms",
    }  # fmt: skip
    with relayed(bundle, telemetry) as relay:
        send(relay, b"far", times=3)
        send(relay, b"5", times=4)
        scraped = {f.name: f for f in parse_text(relay.metrics)}
    totals = receiver.totals()  # the last are sent at the end
    assert totals["tocsin_responses"] == totals["tocsin_pvalue"] == 7
    assert totals["tocsin_score"] == 14  # two detectors
    assert totals["tocsin_alarms"] == sum(s.value for s in scraped["tocsin_alarms"].samples)
    assert totals["tocsin_relay_calls"] == 7
    names = {metric.name for metric in receiver.metrics[-1].resource_metrics[0].scope_metrics[0].metrics}
    assert {"tocsin_alpha", "tocsin_promise_log_evalue", "tocsin_bundle_info"} <= names
    assert not receiver.spans


def test_a_receiver_that_is_away_costs_callers_nothing_and_is_counted(bundle: Path) -> None:
    telemetry = {"endpoint": f"http://127.0.0.1:{free_port()}", "protocol": "http", "timeout": "200ms", "traces": 1}
    with relayed(bundle, {**telemetry, "metrics": "100ms"}) as relay:
        send(relay, b"1", times=20)
        deadline = time.monotonic() + 60
        line = 'tocsin_otlp_exports_total{outcome="failed",signal="metrics"}'
        while not any(text.startswith(line) and float(text.split()[-1]) > 0 for text in relay.metrics.splitlines()):
            assert time.monotonic() < deadline, "no failure was counted"
            time.sleep(0.05)
        send(relay, b"2")


def test_engines_spans_speak_of_generative_models() -> None:
    (generate,) = [method for name, method in preset("vllm").items() if name.endswith("/Generate")]
    assert generate.attributes["gen_ai.operation.name"] == "text_completion"
    assert generate.attributes["gen_ai.provider.name"] == "vllm"
    for name in ("sglang", "trtllm", "vllm"):
        assert all(method.attributes["gen_ai.operation.name"] for method in preset(name).values())


def test_a_program_makes_spans_for_its_own_processor(bundle: Path) -> None:
    guard = Guard.open(settings(1, bundle))
    exporter = InMemorySpanExporter()
    tocsin.export_spans(guard, SimpleSpanProcessor(exporter), share=0)
    for content in (inference(far_away(1), slice(0, 1)), inference(safe_traffic(1, seed=8), slice(0, 1))):
        call = guard.call(METHOD.name, {"traceparent": SAMPLED})
        assert call is not None
        judged = call.on_response_message(content)
        assert judged is not None
        guard.judge([judged])
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None and span.attributes["tocsin.alarm"] == "critical"
    broken = guard.call(METHOD.name, {"traceparent": "00-" + "x" * 32 + "-" + "y" * 16 + "-01"})
    assert broken is not None
    judged = broken.on_response_message(inference(far_away(1), slice(0, 1)))
    assert isinstance(judged, Call)
    guard.judge([judged])  # a parent that is none: a trace of its own
    assert len(exporter.get_finished_spans()) == 2 and exporter.get_finished_spans()[1].parent is None


def test_workers_send_their_spans_and_the_supervisor_metrics_of_all(
    bundle: Path, tmp_path: Path, receiver: Receiver
) -> None:
    listen, metrics = free_port(), free_port()
    with model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        config = tmp_path / "tocsin.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "metrics": f"127.0.0.1:{metrics}", "admin": None,
            "workers": 2, "scoring_budget": "60s",
            "opentelemetry": {"endpoint": receiver.endpoint("grpc"), "metrics": "1s"},
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        }))  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)], env=at_once())
        try:
            # Both listen: else the first takes every call.
            until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{metrics}/readyz").status == 200, 60)
            for _ in range(20):
                with grpc.insecure_channel(
                    f"127.0.0.1:{listen}", options=[("grpc.use_local_subchannel_pool", 1)]
                ) as channel:
                    channel.unary_unary(INFER)(b"far", timeout=60, wait_for_ready=True)
        finally:
            process.terminate()
            process.wait(60)
    assert len(receiver.spans) == 20
    assert len({about["service.instance.id"] for about in receiver.resources}) == 2
    assert receiver.totals()["tocsin_alarms"] == 20


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        span_exporter(TelemetryConfig(headers=tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'tocsin\[otel\]'"):
        span_exporter(TelemetryConfig())


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "guard-of-digits")
    assert resource().attributes["service.name"] == "guard-of-digits"


# -- what the environment says


ENVIRONMENT: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"ENDPOINT": "http:grpc"}, {}),
    ({"ENDPOINT": "http:http", "PROTOCOL": "http/protobuf"}, {}),
    ({"ENDPOINT": "http://127.0.0.1:1", "TRACES_ENDPOINT": "http:grpc"}, {}),
    ({"ENDPOINT": "http://a:1", "TRACES_ENDPOINT": "http:http/v1/traces", "TRACES_PROTOCOL": "http/protobuf"}, {}),
    ({"ENDPOINT": "http://127.0.0.1:1", "PROTOCOL": "http/protobuf"}, {"endpoint": "http:grpc", "protocol": "grpc"}),
    ({"ENDPOINT": "http:grpc", "HEADERS": "x-token=environment"}, {}),
    ({"ENDPOINT": "http:grpc", "HEADERS": "x-token=environment"}, {"headers": "file"}),
    ({"ENDPOINT": "http:http", "PROTOCOL": "http/protobuf", "TRACES_HEADERS": "x-token=environment"}, {}),
    ({"ENDPOINT": "", "PROTOCOL": ""}, {"endpoint": "http:grpc"}),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "configured"), ENVIRONMENT, ids=str)
def test_what_the_configuration_leaves_open_the_environment_says(
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    configured: dict[str, Any],
) -> None:
    def with_ports(text: str) -> str:
        return text.replace("http:grpc", receiver.endpoint("grpc")).replace("http:http", receiver.endpoint("http"))

    (tmp_path / "headers").write_text("x-token=file\n")
    for name, value in environment.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", with_ports(value))
    config = TelemetryConfig(**{name: with_ports(value) for name, value in configured.items() if name != "headers"})  # type: ignore[arg-type]
    config.headers = tmp_path / "headers" if "headers" in configured else None
    guard = Guard.open(settings(1, None))
    exporter = span_exporter(config)
    tocsin.export_spans(guard, SimpleSpanProcessor(exporter), share=1.0)
    call = Call(METHOD, {}, "", False)
    call.response = b""
    guard.judge([call])
    exporter.shutdown()
    assert len(receiver.spans) == 1
    token = "file" if "headers" in configured else "environment" if "HEADERS" in str(environment) else None
    assert receiver.headers[0].get("x-token") == token


def test_nothing_told_is_the_receiver_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol, port in (("grpc", "127.0.0.1:4317"), ("http", "http://127.0.0.1:4318/v1/traces")):
        exporter: Any = span_exporter(TelemetryConfig(protocol=protocol))  # type: ignore[arg-type]
        assert exporter._endpoint == port
        exporter.shutdown()


def test_a_time_in_the_environment_holds_unless_the_configuration_says_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    for config, seconds in ((TelemetryConfig(), 3), (TelemetryConfig(timeout="7s"), 7)):  # type: ignore[arg-type]
        exporter: Any = span_exporter(config)
        assert exporter._timeout == seconds
        exporter.shutdown()


def test_a_protocol_that_is_not_spoken_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; grpc and http/protobuf are"):
        span_exporter(TelemetryConfig())
