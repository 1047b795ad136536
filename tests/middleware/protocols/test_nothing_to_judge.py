"""Claim: messages of a stream that carry nothing to judge pass uncounted; content without its signals is unscored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.parts import STREAM_INFER, inference, quick_bundle, safe_traffic, settings
from smg_grpc_proto.generated import sglang_scheduler_pb2 as sglang
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm
from tritonclient.grpc import service_pb2 as triton

from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

GENERATE = {
    "vllm": "/vllm.grpc.engine.VllmEngine/Generate",
    "sglang": "/sglang.grpc.scheduler.SglangScheduler/Generate",
}
TYPES: dict[str, Any] = {"vllm": vllm, "sglang": sglang}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty")
    quick_bundle(path / "quick.tocsin")
    safe = Observations({"token_logprobs": np.log(np.random.default_rng(1).uniform(0.3, 1, (300, 4)))})
    scorer = compile([parse("mean_surprisal")], fit_on=safe)
    Bundle(scorer, calibrate(scorer(safe), {"warning": 0.1}, detectors=scorer.detectors), "m").write(path / "t.tocsin")
    return path


def reasons(guard: Guard, method: str, messages: list[bytes]) -> list[str | None]:
    """Of each message that is judged or not: why not, `judged`, or None where it is nothing to count."""
    call = guard.call(method, {})
    assert call is not None
    pieces = [call.on_response_message(message) for message in messages]
    judged = [piece for piece in pieces if piece is not None] + call.ended()
    guard.judge(judged)
    return [None if piece.verdict is None else piece.verdict.unscored or "judged" for piece in judged]


def streamed(error: str = "", content: bytes = b"", **parameters: bool) -> bytes:
    response = triton.ModelInferResponse.FromString(content)
    for name, value in parameters.items():
        response.parameters[name].bool_param = value
    return bytes(triton.ModelStreamInferResponse(error_message=error, infer_response=response).SerializeToString())


def test_triton_closes_a_request_with_an_empty_response_and_tells_errors_in_the_stream(folder: Path) -> None:
    guard = Guard.open(settings(1, folder / "quick.tocsin", mode="enforce", fail="closed"))
    answer = inference(safe_traffic(1), slice(0, 1))
    messages = [
        streamed(content=answer),
        streamed(triton_final_response=True),
        streamed("no such model"),
        streamed("with an id", triton.ModelInferResponse(id="7").SerializeToString()),
        streamed(content=answer, triton_final_response=True),
    ]
    assert reasons(guard, STREAM_INFER, messages) == ["judged", None, None, None, "judged"]
    empty, without = streamed(triton_final_response=False), streamed(content=b"\x0a\x06digits")
    other = triton.ModelInferResponse(model_name="digits")
    other.outputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hi")
    content = streamed("an error beside content", other.SerializeToString())
    assert reasons(guard, STREAM_INFER, [empty, without, content]) == ["missing_signal"] * 3
    by_two = Guard.open(settings(1, folder / "quick.tocsin"))
    by_two.config.models["digits"].judge = 2
    by_two = Guard.open(by_two.config)
    assert reasons(by_two, STREAM_INFER, [messages[0], messages[1], messages[1], messages[2]]) == ["judged", None]


def chunk(kind: Any, tokens: int, *, has_logprobs: bool = True, **more: Any) -> bytes:
    logprobs = kind.OutputLogProbs(token_logprobs=[-0.3] * tokens) if has_logprobs and tokens else None
    body = kind.GenerateStreamChunk(token_ids=[1] * tokens, output_logprobs=logprobs, **more)
    return bytes(kind.GenerateResponse(chunk=body).SerializeToString())


@pytest.mark.parametrize("protocol", ["vllm", "sglang"])
def test_an_engines_chunk_without_tokens_is_no_answer(folder: Path, protocol: str) -> None:
    kind = TYPES[protocol]
    usage = {"prompt_tokens": 7, "completion_tokens": 2} if protocol == "vllm" else {"hidden_states": [0.5]}
    end = kind.GenerateResponse(complete=kind.GenerateComplete(finish_reason="stop")).SerializeToString()
    complete = kind.GenerateComplete(finish_reason="stop", output_ids=[1, 1])
    response = kind.GenerateResponse(complete=complete).SerializeToString()
    messages = [chunk(kind, 0), chunk(kind, 1), chunk(kind, 0, **usage), chunk(kind, 1, has_logprobs=False), end]
    model = {"bundle": folder / "t.tocsin", "protocol": protocol, "judge": "message"}
    guard = Guard.open(Config(models={"m": model}))
    for _ in range(2):  # known structures are read without parsing
        assert reasons(guard, GENERATE[protocol], messages) == [None, "judged", None, "missing_signal", None]
    assert reasons(guard, GENERATE[protocol], [response]) == ["missing_signal"], "content without its signals"
    assert reasons(guard, GENERATE[protocol], [end]) == [None]
    at_end = Guard.open(Config(models={"m": {**model, "judge": "end"}}))
    assert reasons(at_end, GENERATE[protocol], messages) == ["judged"]
    assert reasons(at_end, GENERATE[protocol], [messages[0], end]) == [None]


def test_what_carries_content_must_be_able_to_be_empty(tmp_path: Path) -> None:
    from benchmarks.harness import ranker as acme

    protocols = acme.protocol(tmp_path)
    name = acme.PATHS["Watch"]
    for content, fault in (("response.nothing", "has no field"), ("response.scores[].value", "")):
        protocols["ranker"]["methods"][name] = {"model": "response.model", "content": content}
        models = {"digits": {"protocol": "ranker", "signals": acme.SIGNALS}}
        config = Config(protocols=protocols, models=models)
        if fault:
            with pytest.raises(ConfigError, match=fault):
                Guard.open(config)
        else:
            Guard.open(config)
