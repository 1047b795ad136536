"""The SDK's OTLP exporters, set up by the configuration, and by the environment where that says nothing.

The SDK itself reads OTEL_EXPORTER_OTLP_* for everything that it is not given: the variables of one signal
(..._TRACES_ENDPOINT) before those of both (..._ENDPOINT).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from tocsin.configuration.pairs import read_pairs
from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

Signal = Literal["trace", "metric"]

_CLASSES = {"trace": "OTLPSpanExporter", "metric": "OTLPMetricExporter"}
_PATHS = {"trace": "v1/traces", "metric": "v1/metrics"}
_PORTS = {"grpc": 4317, "http": 4318}
_PROTOCOLS: dict[str, Literal["grpc", "http"]] = {"grpc": "grpc", "http": "http", "http/protobuf": "http"}


def span_exporter(config: TelemetryConfig) -> SpanExporter:
    """Raises ConfigError when the SDK is not installed, or a file cannot be read."""
    return _exporter(config, "trace")  # type: ignore[no-any-return]


def metric_exporter(config: TelemetryConfig) -> MetricExporter:
    """Raises ConfigError when the SDK is not installed, or a file cannot be read."""
    return _exporter(config, "metric")  # type: ignore[no-any-return]


def check_exporters(config: TelemetryConfig) -> None:
    """Make the configured exporters without sending anything. Raises ConfigError."""
    if config.traces is not None:
        span_exporter(config).shutdown()
    if config.metrics is not None:
        metric_exporter(config).shutdown()


def resource() -> Resource:
    """The resource that describes this process. The environment (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) takes
    precedence.
    """
    from importlib.metadata import version

    from opentelemetry.sdk.resources import (
        SERVICE_INSTANCE_ID,
        SERVICE_NAME,
        SERVICE_VERSION,
        OTELResourceDetector,
        Resource,
    )

    attributes = {SERVICE_NAME: "tocsin", SERVICE_VERSION: version("tocsin"), SERVICE_INSTANCE_ID: str(uuid4())}
    return Resource.create(attributes).merge(OTELResourceDetector().detect())


def _exporter(config: TelemetryConfig, signal: Signal) -> Any:
    """The SDK's exporter of one signal, with what the configuration says; its own variables say the rest."""
    from importlib import import_module

    protocol = _protocol(config, signal)
    try:
        module: Any = import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{signal}_exporter")
    except ImportError:
        raise ConfigError("opentelemetry: needs its SDK: pip install 'tocsin[otel]'") from None
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # it tells of every export that is tried again
    given = config.model_fields_set
    how: dict[str, Any] = {}
    endpoint = str(config.endpoint).rstrip("/") if "endpoint" in given else ""
    if not endpoint and not _environment_value(signal, "ENDPOINT"):
        endpoint = f"http://127.0.0.1:{_PORTS[protocol]}"
    if endpoint:
        how["endpoint"] = endpoint if protocol == "grpc" else f"{endpoint}/{_PATHS[signal]}"
    if config.headers is not None:
        pairs = read_pairs(config.headers, "opentelemetry")
        how["headers"] = {name.lower(): value for name, value in pairs.items()}
    if "timeout" in given:
        how["timeout"] = config.timeout.total_seconds()
    authority = None if config.ca is None else _read(config.ca)
    if protocol == "http":
        if config.ca is not None:
            how["certificate_file"] = str(config.ca)
    elif endpoint:
        how["insecure"] = not endpoint.startswith("https")
    if (
        protocol == "grpc"
        and authority is not None
        and (endpoint or _environment_value(signal, "ENDPOINT")).startswith("https")
    ):
        import grpc

        how["credentials"] = grpc.ssl_channel_credentials(authority)
    if signal == "trace" and hasattr(module, "encode_spans"):
        from tocsin.telemetry.span_encoding import JudgedSpanEncoder

        if not isinstance(module.encode_spans, JudgedSpanEncoder):  # where its exporter looks for one
            module.encode_spans = JudgedSpanEncoder(module.encode_spans, serializes=protocol == "http")
    try:
        return getattr(module, _CLASSES[signal])(**how)
    except Exception as error:  # the SDK has several kinds for what the environment says
        raise ConfigError(f"opentelemetry: OTEL_EXPORTER_OTLP_... cannot be used ({error})") from None


def _protocol(config: TelemetryConfig, signal: Signal) -> Literal["grpc", "http"]:
    """The protocol of one signal: the configuration's, or that of OpenTelemetry's own variables."""
    configured = _environment_value(signal, "PROTOCOL")
    if "protocol" in config.model_fields_set or not configured:
        return config.protocol
    if configured not in _PROTOCOLS:
        raise ConfigError(
            f"opentelemetry: OTEL_EXPORTER_OTLP_PROTOCOL is '{configured}'; grpc and http/protobuf are spoken here"
        )
    return _PROTOCOLS[configured]


def _environment_value(signal: Signal, what: str) -> str:
    """What the environment says of a signal, else of both; empty is unset, as OpenTelemetry has it."""
    of_signal = "TRACES" if signal == "trace" else "METRICS"
    named = (f"OTEL_EXPORTER_OTLP_{of_signal}_{what}", f"OTEL_EXPORTER_OTLP_{what}")
    return next((value for name in named if (value := os.environ.get(name, "").strip())), "")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"opentelemetry: {path}: cannot be read ({error.strerror})") from None
