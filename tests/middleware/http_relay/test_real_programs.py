"""Claims: the client of OpenAI, httpx, curl and nginx are served through the relay as without it, by HTTP/1.1 with TLS
and without, and what comes as JSON over HTTP/2 is counted, never silently unjudged."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import openai
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.certificates import Authority
from benchmarks.harness.chat import CHAT
from benchmarks.harness.openai_server import OpenAIServer, serving
from benchmarks.harness.parts import Running, free_port, running
from tests.middleware.http_relay.raw import PATIENCE, SAFE, calling, request, settings

from tocsin.verdict import METADATA_KEY

MODES = ["observe", "annotate", "enforce"]
TIMEOUT = 60.0
pytestmark = pytest.mark.long


@contextmanager
def before_openai(bundle: Path, **more: Any) -> Iterator[tuple[Running, OpenAIServer]]:
    server = OpenAIServer()
    with serving(server.app()) as url, running(settings(bundle, url.removeprefix("http://"), **more)) as relay:
        yield relay, server


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ask", [False, 2])
def test_the_client_of_openai_is_served(mode: str, ask: int, tokens: Path) -> None:
    with before_openai(tokens, mode=mode, ask=ask, on_alarm={"warning": "block"}) as (relay, _):
        with openai.OpenAI(base_url=f"http://{relay.target}/v1", api_key="none", max_retries=0) as client:

            def create(prompt: str, **more: Any) -> Any:
                messages: Any = [{"role": "user", "content": prompt}]
                return client.chat.completions.create(model="m", messages=messages, **more)

            for _ in range(2):
                answer = create("safe", **({} if ask else {"logprobs": True}))
                assert answer.choices[0].message.content == " w0 w1 w2 w3 w4 w5"
                assert (answer.choices[0].logprobs is None) == bool(ask)
                events = [*create("safe", stream=True, **({} if ask else {"logprobs": True}))]
                assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == " w0 w1 w2 w3 w4 w5"
                if mode == "enforce":
                    with pytest.raises(openai.PermissionDeniedError) as refused:
                        create("far", **({} if ask else {"logprobs": True}))
                    assert refused.value.code == "BLOCKED"
            assert client.models.list().data == []
        assert relay.metric("tocsin_responses_total", model="m") >= 4


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is missing")
    command = [program, "-sS", "-m", "60", "-i", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def asked_by_curl(url: str, *arguments: str) -> str:
    content = json.dumps({"model": "m", "messages": [{"role": "user", "content": "safe"}], "logprobs": True})
    verdicts = curl("-H", "content-type: application/json", "-d", content, *arguments, url + CHAT)
    assert verdicts.returncode == 0, verdicts.stderr
    return verdicts.stdout


@pytest.mark.parametrize(
    "arguments",
    [(), ("--http1.0",), ("--http2",), ("-H", "Expect: 100-continue"), ("-H", "Transfer-Encoding: chunked")],
)
def test_curl_is_served(arguments: tuple[str, ...], tokens: Path) -> None:
    with before_openai(tokens, mode="annotate") as (relay, _):
        verdicts = asked_by_curl(f"http://{relay.target}", *arguments)
        assert " 200 OK" in verdicts and f"{METADATA_KEY}: {{" in verdicts and '"finish_reason":"stop"' in verdicts


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_json_over_http2_is_counted_and_refused_in_closed(fail: str, tokens: Path) -> None:
    with nginx('default_type application/json; return 200 "{}";', http2=True) as target:
        with running(settings(tokens, target, mode="enforce", fail=fail)) as relay:
            # Without a body: curl 7.88 drops an answer that is complete before it has sent all of its body.
            answer = curl("-X", "POST", "--http2-prior-knowledge", f"http://{relay.target}{CHAT}")
            assert answer.returncode == 0, answer.stderr
            assert answer.stdout.endswith("{}") == (fail == "open"), answer.stdout
            assert relay.metric("tocsin_relay_not_understood_total", what="not_grpc") == 1
            assert relay.metric("tocsin_unscored_total", model="m", reason="not_grpc") == 1


def listens(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


@contextmanager
def nginx(location: str, *, http2: bool = False) -> Iterator[str]:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is missing")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "nginx.conf").write_text(
            f"""
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port} {"http2" if http2 else ""}; location / {{ {location} }} }}
}}
"""
        )
        process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
        try:
            until(lambda: listens(port))
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize("mode", MODES)
def test_nginx_before_the_relay_and_behind_it(mode: str, tokens: Path) -> None:
    server = OpenAIServer()
    content = {"model": "m", "messages": [{"role": "user", "content": "safe"}], "logprobs": True}
    passing = "proxy_pass http://{}; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off;"
    with serving(server.app()) as url, nginx(passing.format(url.removeprefix("http://"))) as behind:
        with running(settings(tokens, behind, mode=mode)) as relay, nginx(passing.format(relay.target)) as before:
            for streams in (False, True):
                sent_request = {**content, "stream": streams}
                direct = httpx.post(url + CHAT, json=sent_request, timeout=TIMEOUT, verify=False)
                got = httpx.post(f"http://{before}{CHAT}", json=sent_request, timeout=TIMEOUT, verify=False)
                assert got.status_code == 200
                verdicts = [part for part in got.content.split(b"\n\n") if part.startswith(b": tocsin-verdict ")]
                assert (
                    b"\n\n".join(part for part in got.content.split(b"\n\n") if part not in verdicts) == direct.content
                )
                assert (METADATA_KEY in got.headers or bool(verdicts)) == (mode != "observe")


@pytest.mark.parametrize("mode", MODES)
def test_tls_on_both_sides(mode: str, tokens: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(*pair)
    serves.set_alpn_protocols(["h2", "http/1.1"])
    chosen: list[Any] = []
    with tls_upstream(serves, chosen) as target:
        tls = {"certificate": pair[0], "key": pair[1]}
        more: dict[str, Any] = {"tls": tls, "upstream_tls": {"ca": authority.ca, "name": "localhost"}}
        with running(settings(tokens, target, mode=mode, **more)) as relay:
            trusts = ssl.create_default_context(cafile=str(authority.ca))
            url = f"https://localhost:{relay.target.rpartition(':')[2]}{CHAT}"
            with httpx.Client(verify=trusts, timeout=TIMEOUT) as client:
                for _ in range(3):
                    got = client.post(url, content=b"{}")
                    assert got.content == SAFE
                    assert (METADATA_KEY in got.headers) == (mode != "observe")
            trusts.set_alpn_protocols(["h2", "http/1.1"])  # a caller that speaks both
            with ssl_caller(relay.target, trusts) as (caller, protocol):
                assert protocol == "http/1.1"
                caller.sendall(request())
                assert caller.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert set(chosen) == {"http/1.1"}


@contextmanager
def ssl_caller(target: str, context: ssl.SSLContext) -> Iterator[tuple[Any, str | None]]:
    with calling(target) as plain:
        with context.wrap_socket(plain.socket, server_hostname="localhost") as caller:
            yield caller, caller.selected_alpn_protocol()


@contextmanager
def tls_upstream(context: ssl.SSLContext, chosen: list[Any]) -> Iterator[str]:
    """A server of HTTP/1.1 with TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            chosen.append(self.connection.selected_alpn_protocol())  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(SAFE)))
            self.end_headers()
            self.wfile.write(SAFE)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
