"""Claim: what is no gRPC passes a guarded path byte by byte, unless what cannot be judged is refused."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.parts import INFER, SIGNALS, Running, free_port, running, settings
from tests.raw_client import Answer, field, raw_client

from tocsin.grpc_wire.content_types import is_grpc
from tocsin.grpc_wire.deframer import framed
from tocsin.http2 import frames
from tocsin.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS

WEB = framed(b"a message") + b"\x80\x00\x00\x00\x0fgrpc-status:0\r\n"
CONNECT = b'{"outputs":[]}'
BODIES = {
    "application/grpc-web+proto": WEB,
    "application/proto": b"\n\x01m",
    "application/connect+json": framed(CONNECT) + b"\x02\x00\x00\x00\x02{}",
    "application/json": CONNECT,
    "text/plain": b"x",
}
THEIR_OWN = {"date", "server", "last-modified", "etag"}


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: Any) -> Iterator[str]:
    """A server of anything but gRPC: `content-type` asks for a body of that type, and 502 for an error."""
    folder: Path = tmp_path_factory.mktemp("nginx")
    port = free_port()
    for number, body in enumerate(BODIES.values()):
        (folder / f"body{number}").write_bytes(body)
    types = "\n".join(f'"{name}" /body{number};' for number, name in enumerate(BODIES))
    sent = "\n".join(f'"/body{number}" "{name}";' for number, name in enumerate(BODIES))
    (folder / "nginx.conf").write_text(
        f"""
{"user root root;" if os.geteuid() == 0 else ""}
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  map $http_content_type $body {{ default ""; {types} }}
  map $uri $sent {{ default "text/html"; {sent} }}
  server {{
    listen 127.0.0.1:{port} http2; root {folder}; error_page 405 =200 $uri;
    location / {{ if ($body = "") {{ return 502; }} rewrite ^ $body; }}
    location /body {{ default_type $sent; types {{ }} add_header Content-Type $sent; }}
  }}
}}
"""
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        until(lambda: listens(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def listens(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


def ask(target: str, content_type: str) -> Answer:
    block = field(":method", "POST") + field(":scheme", "http") + field(":path", INFER) + field(":authority", "x")
    with raw_client(target) as client:
        client.send(frames.frame(HEADERS, END_HEADERS, 1, block + field("content-type", content_type)))
        client.send(frames.frame(DATA, END_STREAM, 1, CONNECT))
        return client.answer(1)


def said(answer: Answer) -> Any:
    return answer.content, {name: value for name, value in answer.fields.items() if name not in THEIR_OWN}


def relay(nginx: str, bundle: Path, **more: Any) -> Any:
    model = {"bundle": bundle, "signals": SIGNALS, "ask": True}
    return running(settings(nginx, bundle, models={"digits": model}, **more))


def count(running: Running, line: str) -> float:
    return sum(float(text.rpartition(" ")[2]) for text in running.metrics.splitlines() if text.startswith(line + " "))


UNREAD = 'tocsin_relay_not_understood_total{what="not_grpc"}'
UNSCORED = 'tocsin_unscored_total{model="digits",reason="not_grpc"}'


@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_it_passes_byte_by_byte_and_is_counted(nginx: str, bundle: Path, mode: str) -> None:
    with relay(nginx, bundle, mode=mode) as served:
        for content_type in BODIES:
            expected = ask(nginx, content_type)
            assert expected.content == BODIES[content_type], expected.fields
            assert expected.fields["content-type"] == content_type
            assert said(ask(served.target, content_type)) == said(expected), content_type
        error = ask(nginx, "none of these")
        assert error.fields[":status"] == "502" and error.content
        assert said(ask(served.target, "none of these")) == said(error)
        assert count(served, UNREAD) == len(BODIES) + 1
        assert count(served, UNSCORED) == len(BODIES)
        assert not served.sidecar.relay.context.connections or not any(
            c.streams for c in served.sidecar.relay.context.connections
        )


def test_it_is_refused_in_closed(nginx: str, bundle: Path) -> None:
    with relay(nginx, bundle, mode="enforce", fail="closed") as served:
        for content_type, body in BODIES.items():
            answer = ask(served.target, content_type)
            assert answer.fields["grpc-status"] == "14" and content_type in answer.fields["grpc-message"]
            assert body not in answer.content and answer.fields[":status"] == "200"
        answer = ask(served.target, "none of these")
        assert (answer.fields["grpc-status"], answer.content) == ("14", b"")
        assert "HTTP 502" in answer.fields["grpc-message"]
        assert count(served, UNREAD) == len(BODIES) + 1
        assert count(served, UNSCORED) == len(BODIES)


@pytest.mark.parametrize(
    ("content_type", "grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc; charset=utf-8", True),
        ("Application/GRPC+json", True),
        ("", True),
        ("application/grpc-web", False),
        ("application/grpc-web+proto", False),
        ("application/grpcx", False),
        ("application/connect+proto", False),
        ("text/html", False),
    ],
)
def test_content_types(content_type: str, grpc: bool) -> None:
    assert is_grpc(content_type) is grpc
