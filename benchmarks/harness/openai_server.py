"""A model server of the HTTP API of OpenAI, on Starlette and uvicorn. The prompt says what it answers with."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.harness.chat import STRANGE, USUAL, chunk, completion, delta, stream

ANSWERS: dict[str, list[list[float]]] = {
    "safe": [[USUAL] * 6],
    "far": [[STRANGE] * 6],
    "turns": [[USUAL] * 4 + [STRANGE] * 4],
    "two": [[USUAL] * 6, [STRANGE] * 6],
}


class OpenAIServer:
    """What the server has seen: `requests` with bodies and header fields, and how many events it has sent."""

    def __init__(self, *, fallback: bool = False) -> None:
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.sent = 0
        self.finished = threading.Event()
        self._fallback = fallback

    def app(self, *middleware: Any) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", lambda request: JSONResponse({"data": []})),
        ]
        return Starlette(routes=routes, middleware=list(middleware))

    async def chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.requests.append((body, dict(request.headers)))
        prompt = body["messages"][-1]["content"]
        if prompt == "again":
            prompt = "far" if len(self.requests) == 1 else "safe"
        if self._fallback:
            prompt = "safe"
        if prompt == "error":
            return JSONResponse({"error": {"message": "no", "type": "server"}}, 422)
        if prompt == "html":
            return Response("<html>", media_type="text/html")
        answers, has_logprobs = ANSWERS.get(prompt, ANSWERS["safe"]), bool(body.get("logprobs"))
        if not body.get("stream"):
            return Response(completion(*answers, has_logprobs=has_logprobs), media_type="application/json")
        return StreamingResponse(self._events(answers, has_logprobs, prompt), media_type="text/event-stream")

    async def _events(self, answers: list[list[float]], has_logprobs: bool, prompt: str) -> AsyncIterator[bytes]:
        try:
            beyond = [chunk([delta(0, " beyond", STRANGE)])] if prompt == "beyond" else []
            for event in [*stream(*answers, has_logprobs=has_logprobs), *beyond]:
                yield event
                self.sent += 1
                await asyncio.sleep(0)  # as one waits for an engine
        finally:
            self.finished.set()


__all__ = ["ANSWERS", "Middleware", "OpenAIServer", "serving"]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """An ASGI application served by uvicorn on a port that the system chooses; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
