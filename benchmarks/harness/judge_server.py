"""A stand-in for a judge model: an OpenAI-compatible API on a real socket, whose opinions a function of the prompt."""

from __future__ import annotations

import json
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Mapping[str, float] | str | int | bytes | None

PATIENCE = 60.0  # seconds that a judge hangs at most


class JudgeServer:
    """`reply` gives for a prompt: the probabilities of first tokens, or a text; an HTTP status; bytes that are the
    body; None never to answer. `prompts` are those that came, `times` when (time.monotonic), `keys` what they showed.
    """

    def __init__(self, reply: Callable[[str], Reply]) -> None:
        self.reply = reply
        self.prompts: list[str] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.url = ""
        self.released = threading.Event()  # those that hang end

    def body(self, prompt: str) -> tuple[int, bytes]:
        """The status and the body of the response to a prompt."""
        reply = self.reply(prompt)
        if reply is None:
            self.released.wait(PATIENCE)
            return 500, b""
        if isinstance(reply, bytes):
            return 200, reply
        if isinstance(reply, int):
            return reply, b'{"error": {"message": "no"}}'
        if isinstance(reply, str):
            return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()
        tops = [{"token": token, "logprob": math.log(p)} for token, p in reply.items()]
        first = max(reply, key=lambda token: reply[token])
        choice = {"message": {"content": first}, "logprobs": {"content": [{"token": first, "top_logprobs": tops}]}}
        return 200, json.dumps({"choices": [choice]}).encode()


@contextmanager
def judge_server(reply: Callable[[str], Reply], tls: ssl.SSLContext | None = None) -> Iterator[JudgeServer]:
    """A judge on a port that the system chooses, with TLS where that is given."""
    judge = JudgeServer(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.times.append(time.monotonic())
            judge.keys.append(self.headers["Authorization"])
            prompt = question.get("prompt") or question.get("input") or question["messages"][0]["content"]
            judge.prompts.append(prompt)
            status, body = judge.body(prompt)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                return  # whoever asked has hung up

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    judge.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield judge
    finally:
        judge.released.set()
        server.shutdown()
        server.server_close()
        thread.join(30)
