"""A small engine that speaks vLLM's gRPC protocol over SmolLM2-135M-Instruct, on a CPU, from a package.

    python examples/llm/engine.py --port 50051 --model-folder FOLDER    # FOLDER gets what the gateway wants to read

It stands in for a real engine where there is no GPU. Requests that wait are run as one batch, left-padded, with a KV
cache, and every token is sent as it comes, with log-probabilities where asked for. It knows `n`, temperature, top_p,
seed, stop strings and tokens, cancellation, and Abort.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

sys.path.append(str(Path(__file__).parents[1]))
import torch
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as service
from smollm2 import weights
from transformers import AutoModelForCausalLM, AutoTokenizer

NAME = "smollm2"
GATHER = 0.03  # seconds that the first request waits for others
LONGEST = 2048  # tokens of prompt and answer


@dataclass
class Sequence:
    """One of the answers to one request."""

    request: Any
    index: int
    out: asyncio.Queue[Any]
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[list[int], list[float]]] = field(default_factory=list)
    gone: bool = False

    @property
    def wants(self) -> int | None:
        """How many alternatives a token are asked for; None for no log-probabilities."""
        sampling = self.request.sampling_params
        return sampling.logprobs if sampling.HasField("logprobs") else None


class Model:
    """SmolLM2 and its tokenizer, dequantised from the GGUF that a package holds."""

    def __init__(self, weight_bits: int | None = None) -> None:
        file = weights()
        self.tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        self.model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
        if weight_bits is not None:
            self._coarsen(weight_bits)
        self.ends = {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<|im_end|>")}

    def save_for_gateway(self, folder: Path) -> None:
        """The tokenizer and the configuration, as the gateway reads them."""
        self.tokenizer.save_pretrained(folder)
        self.model.config.save_pretrained(folder)

    @torch.no_grad()
    def _coarsen(self, bits: int) -> None:
        """Round the weights of each layer, row by row, to as many levels as so many bits have: a worse model."""
        for module in self.model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                step = module.weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
                module.weight.copy_((module.weight / step).round() * step)

    @torch.no_grad()
    def prompt_logprobs(self, text: str) -> tuple[list[str], list[float | None]]:
        """The tokens of a text, and the log-probability of each behind those before it; the first has none."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = torch.tensor(encoded["input_ids"])
        logprobs = torch.log_softmax(self.model(input_ids=ids[None]).logits[0, :-1].float(), dim=-1)
        chosen = logprobs.gather(1, ids[1:, None])[:, 0].tolist()
        return [text[begin:end] for begin, end in encoded["offset_mapping"]], [None, *chosen]

    @torch.no_grad()
    def run(self, batch: list[Sequence], on_token: Any) -> None:
        """Run sequences to their ends; `on_token(sequence, finish)` after each token, finish empty until the last."""
        longest = max(len(sequence.prompt) for sequence in batch)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (longest - len(sequence.prompt)) + sequence.prompt for sequence in batch])
        attended = torch.tensor(
            [[0] * (longest - len(sequence.prompt)) + [1] * len(sequence.prompt) for sequence in batch]
        )
        draws = [torch.Generator().manual_seed(_seed(sequence)) for sequence in batch]
        cache, going = None, set(range(len(batch)))
        while going:
            positions = (attended.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = self.model(
                input_ids=ids, attention_mask=attended, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            logprobs = torch.log_softmax(logits, dim=-1)
            chosen = torch.full((len(batch), 1), pad)
            for row in sorted(going):
                sequence = batch[row]
                if sequence.gone:
                    going.discard(row)
                    continue
                token = _pick(logits[row], sequence.request.sampling_params, draws[row])
                chosen[row] = token
                sequence.tokens.append(token)
                if sequence.wants is not None:
                    sequence.logprobs.append(float(logprobs[row, token]))
                    top = logprobs[row].topk(max(1, sequence.wants))
                    sequence.tops.append((top.indices.tolist(), top.values.tolist()))
                finish = self._finish(sequence)
                on_token(sequence, finish)
                if finish:
                    going.discard(row)
            ids, attended = chosen, torch.cat([attended, torch.ones((len(batch), 1), dtype=attended.dtype)], dim=1)

    def _finish(self, sequence: Sequence) -> str:
        sampling, last = sequence.request.sampling_params, sequence.tokens[-1]
        if not sampling.ignore_eos and (last in self.ends or last in sampling.stop_token_ids):
            return "stop"
        if sampling.stop:
            text = self.tokenizer.decode(sequence.tokens[-32:])
            if any(stop in text for stop in sampling.stop):
                return "stop"
        most = sampling.max_tokens if sampling.HasField("max_tokens") else LONGEST
        return "length" if len(sequence.tokens) >= min(most, LONGEST - len(sequence.prompt)) else ""


class Engine(service.VllmEngineServicer):  # type: ignore[misc]
    """The service. Batches run in a thread, one after the other."""

    def __init__(self, model: Model, folder: Path, batch: int) -> None:
        self._model, self._folder, self._batch = model, folder, batch
        self._waiting: asyncio.Queue[Sequence] = asyncio.Queue()
        self._under_way: dict[str, list[Sequence]] = {}
        self._started = time.time()

    async def work(self) -> None:
        """Run what waits, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(GATHER)
            while len(batch) < self._batch and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())

            def on_token(sequence: Sequence, finish: str) -> None:
                loop.call_soon_threadsafe(sequence.out.put_nowait, (sequence, len(sequence.tokens), finish))

            await asyncio.to_thread(
                self._model.run, [sequence for sequence in batch if not sequence.gone] or batch[:1], on_token
            )

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        prompt = list(request.tokenized.input_ids) or self._model.tokenizer.encode(request.text)
        if len(prompt) >= LONGEST:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the prompt has {len(prompt)} tokens")
        out: asyncio.Queue[Any] = asyncio.Queue()
        n = max(1, request.sampling_params.n)
        sequences = [Sequence(request, index, out, prompt) for index in range(n)]
        self._under_way[request.request_id] = sequences
        for sequence in sequences:
            self._waiting.put_nowait(sequence)
        unfinished = n
        try:
            while unfinished:
                sequence, count, finish = await out.get()
                if request.stream:
                    yield vllm.GenerateResponse(chunk=_chunk(sequence, count))
                if finish:
                    unfinished -= 1
                    yield vllm.GenerateResponse(complete=_complete(sequence, finish))
        finally:
            for sequence in self._under_way.pop(request.request_id, []):
                sequence.gone = True

    async def Abort(self, request: Any, context: Any) -> Any:
        for name in request.request_ids:
            for sequence in self._under_way.get(name, []):
                sequence.gone = True
                sequence.out.put_nowait((sequence, len(sequence.tokens), "abort"))
        return vllm.AbortResponse()

    async def HealthCheck(self, request: Any, context: Any) -> Any:
        return vllm.HealthCheckResponse(healthy=True, message="well")

    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        config = self._model.model.config
        return vllm.GetModelInfoResponse(
            model_path=str(self._folder), tokenizer_path=str(self._folder), served_model_name=NAME, is_generation=True,
            max_context_length=LONGEST, max_req_input_len=LONGEST, vocab_size=config.vocab_size, model_type="llama",
            architectures=["LlamaForCausalLM"], eos_token_ids=sorted(self._model.ends),
        )  # fmt: skip

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        return vllm.GetServerInfoResponse(
            active_requests=len(self._under_way), server_type="vllm-grpc", uptime_seconds=time.time() - self._started,
            data_parallel_size=1,
        )  # fmt: skip


def _chunk(sequence: Sequence, count: int) -> Any:
    chunk = vllm.GenerateStreamChunk(
        token_ids=sequence.tokens[count - 1 : count],
        prompt_tokens=len(sequence.prompt),
        completion_tokens=count,
        index=sequence.index,
    )
    if sequence.wants is not None:
        _fill(chunk.output_logprobs, sequence, count - 1, count)
    return chunk


def _complete(sequence: Sequence, finish: str) -> Any:
    complete = vllm.GenerateComplete(
        output_ids=sequence.tokens,
        finish_reason=finish,
        prompt_tokens=len(sequence.prompt),
        completion_tokens=len(sequence.tokens),
        index=sequence.index,
    )
    if sequence.wants is not None and not sequence.request.stream:
        _fill(complete.output_logprobs, sequence, 0, len(sequence.tokens))
    return complete


def _fill(target: Any, sequence: Sequence, start: int, end: int) -> None:
    target.token_logprobs.extend(sequence.logprobs[start:end])
    target.token_ids.extend(sequence.tokens[start:end])
    for ids, values in sequence.tops[start:end]:
        target.top_logprobs.add(token_ids=ids, values=values)


def _pick(logits: torch.Tensor, sampling: Any, draw: torch.Generator) -> int:
    temperature = sampling.temperature if sampling.HasField("temperature") else 1.0
    if temperature < 1e-5:
        return int(logits.argmax())
    shares = torch.softmax(logits / temperature, dim=-1)
    if 0 < sampling.top_p < 1:
        ordered, places = shares.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered > sampling.top_p] = 0
        shares = torch.zeros_like(shares).scatter(0, places, ordered)
    return int(torch.multinomial(shares, 1, generator=draw))


def _seed(sequence: Sequence) -> int:
    sampling = sequence.request.sampling_params
    return (sampling.seed if sampling.HasField("seed") else int.from_bytes(os.urandom(4))) + sequence.index


async def serve(port: int, folder: Path, batch: int, weight_bits: int | None = None) -> None:
    """Serve until stopped."""
    model = Model(weight_bits)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_for_gateway(folder)
    server = grpc.aio.server()
    engine = Engine(model, folder, batch)
    service.add_VllmEngineServicer_to_server(engine, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"{NAME} on 127.0.0.1:{port}", flush=True)
    await engine.work()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=50051)
    parser.add_argument("--model-folder", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=16, help="sequences that are run together at most")
    parser.add_argument(
        "--weight-bits", type=int, help="round weights to so few bits, at least 2: a worse model of the same name"
    )
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.model_folder, options.batch, options.weight_bits))
