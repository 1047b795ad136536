"""Tocsin: runtime monitoring for deployed models, with a false-alarm rate that is promised and measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tocsin.errors import ConfigError, FeedbackError, RecordingError, StartError, TocsinError
from tocsin.inprocess.reading import verdict
from tocsin.verdict import Verdict

if TYPE_CHECKING:
    import grpc

    from tocsin.configuration.config import Config
    from tocsin.judgement.guard import Guard

_LATER = {"Guard": "tocsin.judgement.guard"}

__all__ = [
    "ConfigError",
    "FeedbackError",
    "Guard",
    "RecordingError",
    "StartError",
    "TocsinError",
    "Verdict",
    "export_metrics",
    "export_spans",
    "guard_channel",
    "guard_transport",
    "record",
    "server_interceptor",
    "verdict",
]


def __getattr__(name: str) -> Any:
    """What takes long to import, once it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tocsin")
    if name not in _LATER:
        raise AttributeError(f"module 'tocsin' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def guard_channel(channel: grpc.Channel | grpc.aio.Channel, guard: Guard) -> Any:
    """The same channel with the calls of guarded methods judged, of all four kinds. `channel` may have interceptors,
    and may be given to `grpc.intercept_channel` afterwards: they see the program's own messages.

    A call's verdict is in what `trailing_metadata()` returns, in place of one that the server wrote; read it with
    `tocsin.verdict(call)`, or `await tocsin.verdict(call)` for grpc.aio. In observe and annotate messages are those of
    the channel; in enforce, what `on_alarm` and `fail` say is done about them, and calls whose answer is withheld raise
    grpc.RpcError (grpc.aio.AioRpcError) with the configured status.

    Raises ConfigError where no model of the guard is served by a protocol of gRPC.

        >>> import grpc
        >>> import tocsin
        >>> from tocsin.testing import infer_response, serve_model
        >>> guard, infer = tocsin.Guard.open("tocsin.yaml"), "/inference.GRPCInferenceService/ModelInfer"
        >>> response = infer_response("digits", {"probs": [[0.1] * 10], "embedding": [[30.0] * 8]})
        >>> with serve_model({infer: response}) as model:
        ...     with tocsin.guard_channel(grpc.insecure_channel(model.address), guard) as channel:
        ...         _, call = channel.unary_unary(infer).with_call(b"an image", timeout=60)
        >>> tocsin.verdict(call).severity
        'critical'
    """
    import grpc

    from tocsin.inprocess.channel import require_grpc

    require_grpc(guard, "guard_channel")
    if isinstance(channel, grpc.aio.Channel):
        from tocsin.inprocess.aio_channel import GuardedAioChannel

        return GuardedAioChannel(channel, guard)
    from tocsin.inprocess.sync_channel import GuardedChannel

    return GuardedChannel(channel, guard)


def guard_transport(transport: Any, guard: Guard) -> Any:
    """A transport of httpx (or httpx2) like this one, sync or async, with the responses of guarded routes judged:

        client = httpx.Client(transport=tocsin.guard_transport(httpx.HTTPTransport(), guard))
        openai = OpenAI(http_client=client)

    `tocsin.verdict(response)` reads a response's verdict, once all of it was read. In observe and annotate bodies are
    those of the server, in annotate and enforce a stream of events carries the verdict as `stream_verdicts` says; in
    enforce, what `on_alarm` and `fail` say is done.

    Raises ConfigError where no model of the guard is served by a protocol of HTTP, TypeError where `transport` is none.

        >>> import httpx
        >>> import tocsin
        >>> shown = {"probs": [0.1] * 10, "embedding": [30.0] * 8}
        >>> outputs = [{"name": n, "datatype": "FP32", "shape": [1, len(v)], "data": v} for n, v in shown.items()]
        >>> answer = {"model_name": "digits", "outputs": outputs}
        >>> model = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
        >>> transport = tocsin.guard_transport(model, tocsin.Guard.open("http.yaml"))
        >>> with httpx.Client(transport=transport) as client:
        ...     response = client.post("http://model/v2/models/digits/infer", json={"inputs": []})
        >>> tocsin.verdict(response).severity
        'critical'
    """
    from tocsin.inprocess.httpx_transport import guarded_transport

    return guarded_transport(transport, guard)


@contextmanager
def record(config: Config | Path | str, directory: Path | str, rows: int = 100_000) -> Iterator[Guard]:
    """A guard that keeps the signals of responses in a folder instead of scoring them, for `tocsin fit` and
    `tocsin calibrate`; at most so many rows. It is given to any position of a program:

        >>> import grpc
        >>> import tocsin
        >>> with tocsin.record("tocsin.yaml", "safe") as guard:
        ...     channel = tocsin.guard_channel(grpc.insecure_channel("127.0.0.1:8001"), guard)

    Bundles need not exist yet, and nothing is done about responses. Needs the extra `record`. Raises ConfigError, and
    RecordingError where the folder cannot be written to.
    """
    from tocsin.configuration.config import Config
    from tocsin.recording.recorder import Recorder

    settings = config if isinstance(config, Config) else Config.load(config)
    recorder = Recorder.open(settings.model_copy(update={"mode": "observe", "record": None}))
    recorder.start(Path(directory), rows)
    try:
        yield recorder.guard
    finally:
        recorder.close()


def server_interceptor(guard: Guard) -> Any:
    """An interceptor for grpc.server(interceptors=[...]) or grpc.aio.server(interceptors=[...]), at any place among
    others: they see the server's own messages.

    In annotate and enforce the verdict is in the call's trailing metadata, where callers in any language see it; in
    enforce, what `on_alarm` and `fail` say is done.

    Raises ConfigError where no model of the guard is served by a protocol of gRPC.

        >>> import grpc
        >>> import tocsin
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> guard = tocsin.Guard.open("tocsin.yaml")
        >>> server = grpc.server(ThreadPoolExecutor(4), interceptors=[tocsin.server_interceptor(guard)])
    """
    from tocsin.inprocess.channel import require_grpc
    from tocsin.inprocess.server import GuardInterceptor

    require_grpc(guard, "server_interceptor")
    return GuardInterceptor(guard)


def export_metrics(guard: Guard, registry: Any = None) -> None:
    """Count the guard's verdicts from now on in a prometheus_client registry, the default one unless told otherwise.

    For programs that expose their own metrics; a sidecar does this by itself.

        >>> import tocsin
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> tocsin.export_metrics(tocsin.Guard.open("tocsin.yaml"), registry)
        >>> b'tocsin_alarms_total{model="digits"' in generate_latest(registry)
        True
    """
    from prometheus_client import REGISTRY

    from tocsin.sinks.prometheus import PrometheusSink

    sink = PrometheusSink(guard.models, before=guard.end_silent_sessions)
    guard.sinks.append(sink)
    (registry or REGISTRY).register(sink)


def export_spans(guard: Guard, processor: Any, share: float = 0.01) -> None:
    """Make spans of the guard's calls that alarm, and of a `share` of the others, for a span processor of the
    OpenTelemetry SDK, such as BatchSpanProcessor(OTLPSpanExporter()). A sidecar does this by itself.

        >>> import tocsin
        >>> from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        >>> tocsin.export_spans(tocsin.Guard.open("tocsin.yaml"), BatchSpanProcessor(ConsoleSpanExporter()))
    """
    from tocsin.sinks.spans import SpanSink
    from tocsin.telemetry.exporters import resource

    guard.sinks.append(SpanSink(processor, resource(), share))
    guard.timed = True
