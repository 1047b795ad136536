"""The engine of engine.py behind OpenAI's HTTP API, as `vllm serve` has it: chat completions, streamed or not.

python examples/llm/openai_api.py --port 8000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from engine import NAME, Engine, Model
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class OpenAI:
    """The routes. `engine` runs what they are asked."""

    def __init__(self, model: Model, engine: Engine) -> None:
        self._model, self._engine = model, engine

    def app(self) -> Starlette:
        @asynccontextmanager
        async def working(app: Starlette) -> AsyncIterator[None]:
            work = asyncio.ensure_future(self._engine.work())
            yield
            work.cancel()

        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.echo, methods=["POST"]),
            Route("/v1/models", self.models),
        ]
        return Starlette(routes=routes, lifespan=working)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": NAME, "object": "model"}]})

    async def chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        head = {"id": f"chatcmpl-{uuid.uuid4().hex[:12]}", "created": 0, "model": NAME}
        tokens = self._tokens(body)
        if body.get("stream"):
            return StreamingResponse(self._events(head, tokens), media_type="text/event-stream")
        parts = [part async for part in tokens]
        text = "".join(part["delta"].get("content", "") for part in parts)
        listed = [token for part in parts for token in (part["logprobs"] or {"content": []})["content"]]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": listed} if body.get("logprobs") else None,
            "finish_reason": parts[-1]["finish_reason"],
        }
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice]})

    async def echo(self, request: Request) -> Response:
        """The prompt with the log-probabilities of its tokens: of completions only what judges need."""
        body = json.loads(await request.body())
        if not (body.get("echo") and body.get("logprobs")):
            return JSONResponse({"error": {"message": "only with echo and logprobs"}}, 400)
        texts, logprobs = await asyncio.to_thread(self._model.prompt_logprobs, body["prompt"])
        offsets = [sum(map(len, texts[:at])) for at in range(len(texts))]
        listed = {"tokens": texts, "text_offset": offsets, "token_logprobs": logprobs}
        choice = {"index": 0, "text": body["prompt"], "logprobs": listed, "finish_reason": "length"}
        return JSONResponse({"object": "text_completion", "model": NAME, "choices": [choice]})

    async def _events(self, head: dict[str, Any], tokens: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
        async for choice in tokens:
            event = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            yield b"data: " + json.dumps(event).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    async def _tokens(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The choices of a stream's events: one a token, then one that tells why it ended."""
        tokenizer = self._model.tokenizer
        text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        sampling = vllm.SamplingParams(
            max_tokens=body.get("max_tokens") or 64, temperature=body.get("temperature", 1.0)
        )
        if body.get("logprobs"):
            sampling.logprobs = body.get("top_logprobs") or 1
        request = vllm.GenerateRequest(request_id=uuid.uuid4().hex, sampling_params=sampling, stream=True)
        request.tokenized.input_ids.extend(tokenizer.encode(text, add_special_tokens=False))
        async for response in self._engine.Generate(request, None):
            if response.HasField("complete"):
                yield {"index": 0, "delta": {}, "logprobs": None, "finish_reason": response.complete.finish_reason}
                continue
            chunk = response.chunk
            ids = list(chunk.token_ids)
            if ids and ids[0] in self._model.ends:
                continue
            logprobs = {"content": [self._token(chunk)]} if body.get("logprobs") else None
            delta = {"content": tokenizer.decode(ids)}
            yield {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _token(self, chunk: Any) -> dict[str, Any]:
        chosen = chunk.output_logprobs
        tops = [
            self._named(i, v) for top in chosen.top_logprobs for i, v in zip(top.token_ids, top.values, strict=True)
        ]
        return {**self._named(chosen.token_ids[0], chosen.token_logprobs[0]), "top_logprobs": tops}

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._model.tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16, help="sequences that are run together at most")
    options = parser.parse_args()
    model = Model()
    app = OpenAI(model, Engine(model, Path(), options.batch)).app()
    print(f"{NAME} on 127.0.0.1:{options.port}", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
