"""The SDK's OTLP exporters, made as the configuration says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tocsin.configuration.pairs import read_pairs
from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

_PATHS = {"trace": "v1/traces", "metric": "v1/metrics"}


def span_exporter(config: TelemetryConfig) -> SpanExporter:
    """Raises ConfigError when the SDK is not installed, or a file cannot be read."""
    return _exporter(config, "trace", "OTLPSpanExporter")  # type: ignore[no-any-return]


def metric_exporter(config: TelemetryConfig) -> MetricExporter:
    """Raises ConfigError when the SDK is not installed, or a file cannot be read."""
    return _exporter(config, "metric", "OTLPMetricExporter")  # type: ignore[no-any-return]


def resource() -> Resource:
    """Who tells: this process. What the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) wins."""
    from opentelemetry.sdk.resources import (
        SERVICE_INSTANCE_ID,
        SERVICE_NAME,
        SERVICE_VERSION,
        OTELResourceDetector,
        Resource,
    )

    import tocsin

    own = {SERVICE_NAME: "tocsin", SERVICE_VERSION: tocsin.__version__, SERVICE_INSTANCE_ID: str(uuid4())}
    return Resource.create(own).merge(OTELResourceDetector().detect())


def _exporter(config: TelemetryConfig, signal: str, name: str) -> Any:
    from importlib import import_module

    try:
        made = getattr(import_module(f"opentelemetry.exporter.otlp.proto.{config.protocol}.{signal}_exporter"), name)
    except ImportError:
        raise ConfigError("opentelemetry: needs its SDK: pip install 'tocsin[otel]'") from None
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # it tells of every export that is tried again
    endpoint, timeout = str(config.endpoint).rstrip("/"), config.timeout.total_seconds()
    headers = {name.lower(): value for name, value in read_pairs(config.headers, "opentelemetry").items()}
    if config.protocol == "http":
        ca = None if config.ca is None else str(config.ca)
        return made(f"{endpoint}/{_PATHS[signal]}", headers=headers, timeout=timeout, certificate_file=ca)
    import grpc

    secure = endpoint.startswith("https")
    credentials = grpc.ssl_channel_credentials(_read(config.ca) if config.ca is not None else None) if secure else None
    return made(endpoint, insecure=not secure, credentials=credentials, headers=headers, timeout=timeout)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"opentelemetry: {path}: cannot be read ({error.strerror})") from None
