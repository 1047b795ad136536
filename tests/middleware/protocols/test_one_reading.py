"""Claim: messages are judged as every upstream reads them, or not at all where servers read them differently."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, far_away, inference, quick_bundle, running, safe_traffic, settings
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm
from tritonclient.grpc import service_pb2 as triton

import tocsin
from tocsin.configuration.config import Config
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip, oip_layouts
from tocsin.protocols.field_paths import resolve
from tocsin.protocols.messages import decompress
from tocsin.protocols.protocol import preset
from tocsin.unscored import Unscored

SAFE = safe_traffic(4, seed=5)
FAR = far_away(1)


def request(*tensors: tuple[str, Any], typed: bool = False, **more: Any) -> Any:
    message = triton.ModelInferRequest(model_name="digits", **more)
    for name, values in tensors:
        tensor = message.inputs.add(name=name, datatype="FP32", shape=values.shape)
        if typed:
            tensor.contents.fp32_contents.extend(values.ravel().tolist())
        else:
            message.raw_input_contents.append(values.astype("<f4").tobytes())
    return message


def why(read: Any, content: bytes) -> str:
    with pytest.raises(Unscored) as caught:
        read(content)
    return caught.value.reason


CALM, STRANGE = SAFE["embedding"][:1], FAR["embedding"][:1]


def both(first: Any, second: Any) -> bytes:
    return bytes(first.SerializeToString() + second.SerializeToString())


def beside() -> bytes:
    message = request(("x", STRANGE))
    message.inputs[0].contents.fp32_contents.extend(CALM.ravel().tolist())
    return bytes(message.SerializeToString())


def in_two_types() -> bytes:
    message = request(("x", STRANGE), typed=True)
    message.inputs[0].contents.fp64_contents.extend(CALM.ravel().tolist())
    return bytes(message.SerializeToString())


def twice_in_a_tensor() -> bytes:
    """The tensor has its values twice: parsers of protobuf put them together, others take one."""
    tensor = request(("x", STRANGE), typed=True).inputs[0].SerializeToString()
    more = triton.ModelInferRequest.InferInputTensor(contents=triton.InferTensorContents(fp32_contents=[0.0]))
    tensor += more.SerializeToString()
    return b"\x0a\x06digits\x2a" + bytes([len(tensor)]) + tensor


@pytest.mark.parametrize(
    "content",
    [
        request(("x", CALM), ("x", STRANGE)).SerializeToString(),
        request(("x", CALM), ("x", STRANGE), typed=True).SerializeToString(),
        beside(),
        in_two_types(),
        twice_in_a_tensor(),
        both(request(("x", STRANGE)), request(("y", CALM))),
        both(request(("x", STRANGE)), triton.ModelInferRequest(model_name="other")),
    ],
    ids=["names", "typed names", "beside raw", "two types", "contents twice", "two messages", "model twice"],
)
def test_requests_that_servers_read_differently_are_undecodable(content: bytes) -> None:
    for _ in range(2):  # also where its like was met before
        assert why(oip.read_request, content) == "undecodable"


def test_raw_contents_are_those_of_tensors_that_are_not_in_shared_memory() -> None:
    message = request(("x", CALM))
    elsewhere = message.inputs.add(name="image", datatype="FP32", shape=[4])
    elsewhere.parameters["shared_memory_region"].string_param = "region"
    message.inputs.insert(0, message.inputs.pop())  # Triton takes the first raw contents for the second input
    read = oip.read_request(message.SerializeToString())
    assert read.raw[read.layout.tensor("x").position] == CALM.astype("<f4").tobytes()
    message.raw_input_contents.append(STRANGE.astype("<f4").tobytes())
    assert why(oip.read_request, message.SerializeToString()) == "shape"


def test_a_stream_message_with_two_responses_is_undecodable() -> None:
    calm, strange = (
        triton.ModelStreamInferResponse(infer_response=triton.ModelInferResponse.FromString(content))
        for content in (inference(SAFE, slice(0, 1)), inference(FAR, slice(0, 1)))
    )
    assert why(oip.read_stream_response, both(strange, calm)) == "undecodable"
    assert oip.read_stream_response(calm.SerializeToString()).model == "digits"


def generate(logprob: float) -> Any:
    logprobs = vllm.OutputLogProbs(token_logprobs=[logprob], token_ids=[1])
    return vllm.GenerateResponse(chunk=vllm.GenerateStreamChunk(token_ids=[1], output_logprobs=logprobs))


def test_messages_of_other_protocols_with_a_field_twice_are_undecodable() -> None:
    method = preset("vllm")["/vllm.grpc.engine.VllmEngine/Generate"]
    twice = both(generate(-9.0), generate(-0.1))
    two_kinds = both(generate(-9.0), vllm.GenerateResponse(complete=vllm.GenerateComplete(finish_reason="stop")))
    for content in (twice, two_kinds) * 2:
        assert why(lambda raw: method.open(raw, None), content) == "undecodable"
    method.open(generate(-0.1).SerializeToString(), None)
    predict = preset("tfserving")["/tensorflow.serving.PredictionService/Predict"]
    outputs = {"probs": {"dtype": "DT_FLOAT", "floatVal": [0.5]}}
    response = predict.answer({"outputs": outputs, "modelSpec": {"name": "m"}}).SerializeToString()
    entry = predict.answer({"outputs": outputs}).SerializeToString()
    assert why(lambda content: predict.open(content, None), response + entry) == "undecodable"


def test_of_values_with_one_name_none_is_taken() -> None:
    path = resolve(oip.Request.DESCRIPTOR, "inputs[x].datatype")
    assert path.follow(oip.Request(inputs=[{"name": "x", "datatype": "FP32"}])) == "FP32"
    with pytest.raises(Unscored, match="named 'x'"):
        path.follow(oip.Request(inputs=[{"name": "x", "datatype": "FP32"}, {"name": "x"}]))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_nothing_may_follow_a_compressed_message(encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    assert decompress(pack(b"harmless"), encoding, 100) == b"harmless"
    for behind in (pack(b"strange"), b"\0", b"rubbish"):
        assert why(lambda content: decompress(content, encoding, 100), pack(b"harmless") + behind) == "undecodable"


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_two_messages_where_a_method_takes_one_are_not_judged(tmp_path: Path, mode: str) -> None:
    """The signal is the request's, and C-core's servers take the first message: judged is neither."""
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    signals = {"probs": "response.outputs.probs", "embedding": "request.inputs.x"}
    first, second = (request(("x", x)).SerializeToString() for x in (STRANGE, CALM))
    with model_server() as (server, address):
        server.answers = {first: inference(SAFE, slice(0, 1)), second: inference(SAFE, slice(0, 1))}
        config = settings(address, bundle, mode=mode, models={"digits": {"bundle": bundle, "signals": signals}})
        with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
            call = channel.stream_unary(INFER)  # sends as many messages as it is given, on the same path
            for sent, expected in (([second], None), ([first, second], "undecodable")):
                waits = iter([*sent])
                try:
                    _, done = call.with_call(waits, timeout=60)
                except grpc.RpcError as error:
                    done = error  # the server may refuse the second; then nothing was served
                    assert len(sent) == 2
                    continue
                verdict = tocsin.verdict(done)
                assert verdict is not None
                if len(sent) == 2 and verdict.unscored is None:  # the answer was there before the second message
                    assert verdict.severity == "critical"  # by the first, which the server has read
                    continue
                assert verdict.unscored == expected


def test_a_call_that_was_not_read_is_not_judged_by_what_follows(tmp_path: Path) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    signals = {"probs": "response.outputs.probs", "embedding": "request.inputs.x"}
    guard = Guard.open(Config(models={"digits": {"bundle": bundle, "signals": signals}}))
    calm = request(("x", CALM)).SerializeToString()
    for first in ((None, ("too_large", "")), (request(("x", STRANGE)).SerializeToString(), None)):
        call = guard.call(INFER, {})
        assert call is not None
        call.on_request_message(*first)
        call.on_request_message(calm)
        assert call.on_response_message(inference(SAFE, slice(0, 1))) is call
        guard.judge([call])
        assert call.verdict is not None and call.verdict.unscored == "undecodable"


def test_layouts_are_remembered_up_to_a_size() -> None:
    """A caller that tells another description each time takes no more memory than is set aside for all."""
    before = oip_layouts.layouts.description_bytes
    for number in range(3):
        message = request(("x", CALM))
        message.inputs[0].parameters["note"].string_param = f"{number}" + "n" * oip_layouts.MAX_DESCRIPTIONS
        read = oip.read_request(message.SerializeToString())
        assert not read.layout.remembered and read.layout.tensor("x").shape == (1, 8)
        long = request((f"{number}" + "x" * oip_layouts.MAX_DESCRIPTIONS, CALM), typed=True).SerializeToString()
        assert not oip.read_request(long).layout.remembered
    assert oip_layouts.layouts.description_bytes == before
    for number in range(oip_layouts.MAX_MEMORY // 8_000 + 10):
        message = request(("x", CALM))
        message.inputs[0].parameters["note"].string_param = f"{number:08}" + "n" * 8_000
        assert oip.read_request(message.SerializeToString()).layout.remembered
        assert oip_layouts.layouts.description_bytes <= oip_layouts.MAX_MEMORY


def test_shapes_without_end_are_no_shapes(tmp_path: Path) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    signals = {"probs": "response.outputs.probs", "embedding": "request.inputs.x"}
    guard = Guard.open(Config(models={"digits": {"bundle": bundle, "signals": signals}}))
    model = guard.models["digits"]
    message = request(("x", CALM))
    message.inputs[0].shape[:] = [1] * 5_000 + [8]
    for _ in range(2):
        call = guard.call(INFER, {})
        assert call is not None
        call.on_request_message(message.SerializeToString())
        call.on_response_message(inference(SAFE, slice(0, 1)))
        guard.judge([call])
        assert call.verdict is not None and call.verdict.unscored == "shape"
    assert len(model.shapes._families) < 5
    for number in range(5_000):
        model.shapes.family((("x", "FP32", (number,)),))
    assert len(model.shapes._families) <= 4_096
    assert np.isfinite(CALM).all()


def test_a_message_of_a_stream_is_read_the_same_whatever_its_length_takes_and_never_with_a_second_response() -> None:
    for length in (0, 1, 100, *range(120, 132), 16_000, *range(16_375, 16_392), 2_097_140, 2_097_160):
        response = triton.ModelInferResponse(id="i" * length)
        content = triton.ModelStreamInferResponse(infer_response=response).SerializeToString()
        assert oip.answer_of(content) == ("i" * length, False)
        failed = content + triton.ModelStreamInferResponse(error_message="broken").SerializeToString()
        assert oip.answer_of(failed) == ("i" * length, True)
        if length:
            for cut in (content[:-1], content + content, content + b"\x12\x00", content + b"\x12"):
                assert why(oip.answer_of, cut) == "undecodable"
