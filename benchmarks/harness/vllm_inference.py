"""A grpc server that speaks vLLM's own inference API over a small model of forty tokens, as vLLM's server answers.

What it sends is told by its protocol's description: deltas of a sequence, the likeliest tokens without the one that was
said, its rank with ties counted before it, `finish_info` with the last delta; a first message of the prompt alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf.message_factory import GetMessageClass

from benchmarks.harness.serving import serving
from tocsin.protocols.descriptors import pool

POOL = pool("vllm_inference")
Request = GetMessageClass(POOL.FindMessageTypeByName("vllm.GenerateRequest"))
Response = GetMessageClass(POOL.FindMessageTypeByName("vllm.GenerateResponse"))
GENERATE, STREAM = "/vllm.Inference/Generate", "/vllm.Inference/GenerateStream"
VOCABULARY, STOP = 40, 2
# Logits of low precision tie, as those of real engines do.
_LOGITS = np.round(np.random.default_rng(4).normal(0, 2, (VOCABULARY, VOCABULARY)) * 4) / 4
LOGPROBS = _LOGITS - np.log(np.exp(_LOGITS).sum(axis=1, keepdims=True))
PROMPT_INFO = bytes(
    [1 << 3 | 2, 2, 1 << 3, 5]
)  # of the first message: num_prompt_tokens = 5, which Tocsin does not read


def answer(seed: int, length: int = 12, temperature: float = 1.0) -> tuple[list[int], np.ndarray]:
    """The tokens of an answer, and the log-probabilities of all tokens at each place (T, V)."""
    random, before, tokens, rows = np.random.default_rng(seed), seed % VOCABULARY, [], []
    for _ in range(length):
        logs = LOGPROBS[before]
        shares = np.exp(logs / temperature)
        before = int(random.choice(VOCABULARY, p=shares / shares.sum()))
        tokens.append(before)
        rows.append(logs)
    return tokens, np.array(rows)


class Engine(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers by the seed in the request's id, at the temperature behind a colon; `requests` are what came."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.cancelled = 0

    def service(self, details: Any) -> Any:
        if details.method == GENERATE:
            return grpc.unary_unary_rpc_method_handler(self._generate)
        if details.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(self._stream)
        return None

    def _generate(self, raw: bytes, context: Any) -> bytes:
        request, tokens, rows = self._begin(raw)
        response = Response()
        for place in range(len(tokens)):
            self._fill(response.outputs, request, tokens, rows, place)
        self._finish(response, tokens)
        return PROMPT_INFO + bytes(response.SerializeToString())

    def _stream(self, raw: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self._ended)
        request, tokens, rows = self._begin(raw)
        yield PROMPT_INFO
        for place in range(len(tokens)):
            response = Response()
            self._fill(response.outputs, request, tokens, rows, place)
            if place == len(tokens) - 1:
                self._finish(response, tokens)
            yield response.SerializeToString()

    def _ended(self) -> None:
        self.cancelled += 1

    def _begin(self, raw: bytes) -> tuple[Any, list[int], np.ndarray]:
        request = Request.FromString(raw)
        self.requests.append(request)
        seed, _, temperature = request.request_id.partition(":")
        return request, *answer(int(seed), temperature=float(temperature or 1))

    @staticmethod
    def _finish(response: Any, tokens: list[int]) -> None:
        response.outputs.finish_info.num_output_tokens = len(tokens)
        response.outputs.finish_info.finish_reason = STOP

    @staticmethod
    def _fill(output: Any, request: Any, tokens: list[int], rows: np.ndarray, place: int) -> None:
        token, logs, wants = tokens[place], rows[place], request.response
        output.text += f"t{token} "
        output.num_tokens += 1
        if wants.output_token_ids:
            output.token_ids.append(token)
        if not wants.output_logprobs:
            return
        output.logprobs.append(logs[token])
        output.ranks.append(int((logs >= logs[token]).sum()))
        listed = output.candidate_tokens.add()
        for other in np.argsort(-logs, kind="stable")[: wants.output_candidates.top_n].tolist():
            if other != token:
                listed.tokens.add(id=other, logprob=logs[other], rank=int((logs >= logs[other]).sum()))


@contextmanager
def engine() -> Iterator[tuple[Engine, str]]:
    """The server, and where it listens."""
    served = Engine()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((served,))
    with serving(server) as address:
        yield served, address
