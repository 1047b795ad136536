"""A relay with a second opinion, before a model server of OpenAI's API, and a caller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from benchmarks.harness.judge_server import JudgeServer, Reply
from benchmarks.harness.openai_server import OpenAIServer, serving

from tocsin.configuration.config import Config
from tocsin.testing.guards import ServedGuard, serve_guard

PATIENCE = 60.0
RATING = {"rating": {"kind": "rating"}}


def opinion_of(prompt: str) -> Reply:
    """Rates an answer by the number in its question: 0 is best, 1 worst."""
    badness = re.search(r"u=([0-9.]+)", prompt)
    u = float(badness[1]) if badness else 0.5
    return {"5": 1.001 - u, "1": u + 0.001, "maybe": 1e-4}


@contextmanager
def guarded(
    address: JudgeServer | str, *, bundle: Path | None = None, adapt: Any = None, **second: Any
) -> Iterator[Guarded]:
    """A relay before a model server, with a second opinion."""
    url = address if isinstance(address, str) else address.url
    settings = {
        "judge": {"url": url, "model": "judge"}, "opinions": RATING, "share": 1.0, "calls_per_minute": 1_000_000,
        **second,
    }  # fmt: skip
    model = {
        "protocol": "openai", "bundle": bundle, "ask": bundle is not None, "adapt": adapt, "second_opinion": settings,
    }  # fmt: skip
    config = Config(models={"m": model}, mode="annotate")
    server = OpenAIServer()
    with serving(server.app()) as upstream, serve_guard(config, upstream=upstream.removeprefix("http://")) as guard:
        with httpx.Client(base_url=f"http://{guard.target}", timeout=PATIENCE) as client:
            yield Guarded(guard, client)


class Guarded:
    def __init__(self, guard: ServedGuard, client: httpx.Client) -> None:
        self.guard, self._client = guard, client

    def say(self, content: str, *, stream: bool = False, trace: str = "") -> str:
        headers = {"traceparent": f"00-{trace}-{'1' * 16}-01"} if trace else {}
        body = {"model": "m", "messages": [{"role": "user", "content": content}], "stream": stream}
        response = self._client.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response.text

    def complete(self, messages: list[dict[str, str]]) -> str:
        """The answer to a conversation."""
        response = self._client.post("/v1/chat/completions", json={"model": "m", "messages": messages})
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def given(self, **labels: str) -> float:
        return self.guard.metric("tocsin_second_opinions_total", model="m", **labels)

    def lost(self, **labels: str) -> float:
        return self.guard.metric("tocsin_second_opinions_lost_total", model="m", **labels)
