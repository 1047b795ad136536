"""Streams of vLLM's engine for tests: messages of parallel answers, and a guard that judges them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm

from tocsin.configuration.config import Config
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard

METHOD = "/vllm.grpc.engine.VllmEngine/Generate"


def chunk(index: int, token: int, logprob: float, tops: dict[int, float] | None = None) -> Any:
    logprobs = vllm.OutputLogProbs(token_logprobs=[logprob], token_ids=[token])
    if tops is not None:
        logprobs.top_logprobs.add(token_ids=list(tops), values=[float(np.log(p)) for p in tops.values()])
    body = vllm.GenerateStreamChunk(token_ids=[token], output_logprobs=logprobs, index=index)
    return vllm.GenerateResponse(chunk=body)


def complete(index: int, *logprobs: float) -> Any:
    output = vllm.OutputLogProbs(token_logprobs=logprobs, token_ids=range(len(logprobs)))
    body = vllm.GenerateComplete(finish_reason="stop", index=index, output_logprobs=output if logprobs else None)
    return vllm.GenerateResponse(complete=body)


def interleaved(*sequences: list[float]) -> list[Any]:
    """The chunks of parallel answers as they come, then their ends."""
    longest = max(len(sequence) for sequence in sequences)
    chunks = [
        chunk(index, at, sequence[at])
        for at in range(longest)
        for index, sequence in enumerate(sequences)
        if at < len(sequence)
    ]
    return [*chunks, *(complete(index) for index in range(len(sequences)))]


def guard(bundle: Path, **more: Any) -> Guard:
    return Guard.open(Config(models={"m": {"bundle": bundle, "protocol": "vllm", **more}}))


def judged_pieces(by: Guard, messages: list[Any]) -> tuple[Call, list[Call]]:
    call = by.call(METHOD, {})
    assert call is not None
    pieces = [
        piece for message in messages if (piece := call.on_response_message(message.SerializeToString())) is not None
    ]
    pieces += call.ended()
    by.judge(pieces)
    return call, pieces
