"""Claim: of HTTP, what has no body passes, bodies are byte-exact in each mode of the filter, and codings are undone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.chat import CHAT, STRANGE, USUAL, completion, config, tokens_bundle
from benchmarks.harness.envoy import attached_envoy
from benchmarks.harness.judge_server import judge_server
from benchmarks.harness.openai_server import serving
from benchmarks.harness.parts import Running, running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tocsin.configuration.fields import Address
from tocsin.judgement.guard import Guard

pytestmark = pytest.mark.long
DUPLEX, BUFFERED = {"response_body_mode": "FULL_DUPLEX_STREAMED"}, {"response_body_mode": "BUFFERED"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens_bundle(tmp_path_factory.mktemp("http") / "tokens.tocsin")


async def answer(request: Request) -> Response:
    """What the prompt says."""
    prompt = json.loads(await request.body() or b"{}").get("prompt", "")
    body = completion([STRANGE if "far" in prompt else USUAL] * 6)
    if prompt == "nothing":
        return Response(status_code=204)
    if prompt == "error":
        return Response(b'{"error":1}', 500, media_type="application/json")
    if prompt == "broken":
        return Response(b'{"choices": [', media_type="application/json")
    if "gzip" in prompt:
        return Response(gzip.compress(body), media_type="application/json", headers={"content-encoding": "gzip"})
    return Response(body, media_type="application/json", headers={"tocsin-verdict": "forged"})


@contextmanager
def behind_envoy(
    tokens: Path, folder: Path, mode: str, modes: dict[str, str], **more: Any
) -> Iterator[tuple[str, Running]]:
    guard = Guard.open(config(tokens, mode, **more))
    ports = {"ext_proc": Address("127.0.0.1", 0), "metrics": Address("127.0.0.1", 0), "admin": None}
    served = guard.config.model_copy(update={**ports, "scoring_budget": timedelta(seconds=60)})
    routes = [Route(CHAT, answer, methods=["POST", "HEAD", "GET"])]
    with serving(Starlette(routes=routes)) as url, running(served, guard) as processor:
        upstream = url.removeprefix("http://")
        with attached_envoy(folder / "envoy", upstream, processor, codec="HTTP1", modes=modes) as envoy:
            yield f"http://{envoy.target}{CHAT}", processor


def ask(url: str, prompt: str) -> httpx.Response:
    return httpx.post(url, json={"model": "m", "prompt": prompt}, timeout=60, verify=False)


@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED], ids=["duplex", "buffered"])
@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_documents_are_byte_exact_and_their_verdict_is_a_header(
    mode: str, modes: dict[str, str], tokens: Path, tmp_path: Path
) -> None:
    more = {"on_alarm": {"warning": "block"}} if mode == "enforce" else {}
    with behind_envoy(tokens, tmp_path, mode, modes, **more) as (url, _):
        for prompt, logprob in [("safe", USUAL), ("far", STRANGE), ("gzip", USUAL), ("gzip far", STRANGE)]:
            response = ask(url, prompt)
            verdict = json.loads(response.headers["tocsin-verdict"])
            assert verdict["alarm"] == (None if logprob == USUAL else "warning")
            if mode == "enforce" and logprob == STRANGE:
                assert response.status_code == 403 and verdict["action"] == "block"
                assert response.headers["content-type"] == "application/json" and "error" in response.json()
            else:
                assert (response.status_code, response.content) == (200, completion([logprob] * 6))
        assert (ask(url, "error").status_code, ask(url, "error").content) == (500, b'{"error":1}')
        assert (ask(url, "nothing").status_code, ask(url, "nothing").content) == (204, b"")
        broken = ask(url, "broken")
        assert broken.content == b'{"choices": [' and "unscored" in broken.headers["tocsin-verdict"]
        head = httpx.head(url, timeout=60)
        assert head.status_code == 200 and head.content == b""


@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED], ids=["duplex", "buffered"])
def test_what_cannot_be_judged_is_refused_where_it_must_not_pass(
    modes: dict[str, str], tokens: Path, tmp_path: Path
) -> None:
    with behind_envoy(tokens, tmp_path, "enforce", modes, fail="closed") as (url, _):
        response = ask(url, "broken")
        assert response.status_code == 503 and "error" in response.json()
        assert (ask(url, "nothing").status_code, ask(url, "nothing").content) == (204, b"")
        assert ask(url, "safe").content == completion([USUAL] * 6)


def test_a_verdict_without_a_place_is_counted(tokens: Path, tmp_path: Path) -> None:
    with behind_envoy(tokens, tmp_path, "annotate", {"response_body_mode": "STREAMED"}) as (url, processor):
        response = ask(url, "far")
        assert response.content == completion([STRANGE] * 6) and "tocsin-verdict" not in response.headers
        assert 'tocsin_ext_proc_misfits_total{reason="not_told"} 1.0' in processor.metrics


@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED], ids=["duplex", "buffered"])
def test_a_judge_is_asked_about_what_passes_envoy(modes: dict[str, str], tokens: Path, tmp_path: Path) -> None:
    given = 'tocsin_second_opinions_total{drawn="share",model="m",opinion="rating",severity="unpromised"} 1.0'
    with judge_server(lambda prompt: {"4": 0.75, "5": 0.25}) as judge:
        second = {
            "judge": {"url": judge.url, "model": "judge"}, "opinions": {"rating": {"kind": "rating"}}, "share": 1.0,
            "question": "request.prompt",
        }  # fmt: skip
        with behind_envoy(tokens, tmp_path, "annotate", modes, second_opinion=second) as (url, processor):
            assert ask(url, "safe").content == completion([USUAL] * 6)
            until(lambda: given in processor.metrics, 60)
    assert "Question: safe\nAnswer:  w0 w1 w2 w3 w4 w5" in judge.prompts[0]
