"""Claims about protocols: presets read what the real messages say."""

from __future__ import annotations

from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.parts import STREAM_INFER, far_away, inference, running, safe_traffic, settings, streamed
from google.protobuf.json_format import MessageToDict
from smg_grpc_proto.generated import mlx_engine_pb2 as mlx
from smg_grpc_proto.generated import sglang_scheduler_pb2 as sglang
from smg_grpc_proto.generated import tokenspeed_scheduler_pb2 as tokenspeed
from smg_grpc_proto.generated import trtllm_service_pb2 as trtllm
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm
from tests.middleware.protocols.bundles import bundle_of

import tocsin
from tocsin.configuration.config import Config
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip
from tocsin.protocols.field_values import TensorForm, finder
from tocsin.protocols.paths import signal_path
from tocsin.protocols.protocol import preset, presets
from tocsin.unscored import Unscored
from tocsin_calibration import Bundle
from tocsin_detectors import Observations

RNG = np.random.default_rng(5)
SAFE = safe_traffic(40, seed=11)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that reads token streams."""
    logprobs = np.log(RNG.uniform(0.3, 1, (300, 20))).astype(np.float32)
    path = tmp_path_factory.mktemp("tokens") / "tokens.tocsin"
    return bundle_of(path, ["mean_surprisal"], Observations({"token_logprobs": logprobs}))


def guard(protocol: str, bundle: Path, **more: Any) -> Guard:
    return Guard.open(Config(models={"m": {"bundle": bundle, "protocol": protocol, **more}}))


def judged(by: Guard, method: str, *responses: Any, request: Any = None) -> Call:
    call = by.call(method, {})
    assert call is not None
    if request is not None:
        call.on_request_message(request.SerializeToString())
    pieces = [
        piece for response in responses if (piece := call.on_response_message(response.SerializeToString())) is not None
    ]
    for last in call.ended():
        pieces.append(last)
    by.judge(pieces)
    return call


# -- engines of language models, with their own generated code


def vllm_stream(logprobs: list[float]) -> list[Any]:
    chunks = [
        vllm.GenerateResponse(
            chunk=vllm.GenerateStreamChunk(
                token_ids=[at], output_logprobs=vllm.OutputLogProbs(token_logprobs=[value], token_ids=[at])
            )
        )
        for at, value in enumerate(logprobs)
    ]
    logprobs_of_all = vllm.OutputLogProbs(token_logprobs=logprobs)
    return [
        *chunks,
        vllm.GenerateResponse(complete=vllm.GenerateComplete(finish_reason="stop", output_logprobs=logprobs_of_all)),
    ]


def sglang_stream(logprobs: list[float]) -> list[Any]:
    return [
        sglang.GenerateResponse(
            request_id="r",
            chunk=sglang.GenerateStreamChunk(
                token_ids=[at], output_logprobs=sglang.OutputLogProbs(token_logprobs=[value])
            ),
        )
        for at, value in enumerate(logprobs)
    ]


def stream_of(module: Any) -> Any:
    """Streams of an engine whose messages have the same names as vLLM's."""

    def stream(logprobs: list[float]) -> list[Any]:
        chunks = []
        for at, value in enumerate(logprobs):
            output = module.OutputLogProbs(token_logprobs=[value], token_ids=[at])
            output.top_logprobs.add(values=[value, value - 1], token_ids=[at, at + 1])
            chunks.append(
                module.GenerateResponse(
                    chunk=module.GenerateStreamChunk(token_ids=[at], output_logprobs=output, index=0)
                )
            )
        complete = module.GenerateComplete(output_ids=range(len(logprobs)), finish_reason="stop")
        return [*chunks, module.GenerateResponse(complete=complete)]

    return stream


def trtllm_stream(logprobs: list[float]) -> list[Any]:
    return [
        trtllm.GenerateResponse(
            chunk=trtllm.GenerateStreamChunk(token_ids=[at], logprobs=[trtllm.TokenLogprob(token_id=at, logprob=value)])
        )
        for at, value in enumerate(logprobs)
    ]


ENGINES = {
    "vllm": ("/vllm.grpc.engine.VllmEngine/Generate", vllm_stream, vllm),
    "sglang": ("/sglang.grpc.scheduler.SglangScheduler/Generate", sglang_stream, sglang),
    "trtllm": ("/trtllm.TrtllmService/Generate", trtllm_stream, trtllm),
    "mlx": ("/mlx.grpc.engine.MlxEngine/Generate", stream_of(mlx), mlx),
    "tokenspeed": ("/tokenspeed.grpc.scheduler.TokenSpeedScheduler/Generate", stream_of(tokenspeed), tokenspeed),
}


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_token_stream_is_judged_as_one_response_by_its_tokens(engine: str, tokens: Path) -> None:
    method, stream, _ = ENGINES[engine]
    by = guard(engine, tokens)
    usual, strange = [-0.3] * 12, [-0.3] * 6 + [-4.0] * 6
    assert judged(by, method, *stream(usual)).verdict.severity is None  # type: ignore[union-attr]
    verdict = judged(by, method, *stream(strange)).verdict
    assert verdict is not None and (verdict.severity, verdict.model, len(verdict.pvalues)) == ("warning", "m", 1)
    scorer = Bundle.read(tokens)
    scores = scorer.scorer(Observations({"token_logprobs": np.array([strange], np.float32)}))
    assert verdict.pvalues == pytest.approx(scorer.require_promise().pvalues(scores))


def test_what_only_sums_a_stream_up_is_not_judged_again(tokens: Path) -> None:
    method, stream, _ = ENGINES["vllm"]
    by = guard("vllm", tokens, judge="message", session="stream", fail="closed")
    call = by.call(method, {})
    assert call is not None
    *chunks, complete = stream([-0.3, -0.3, -5.0])
    pieces = [call.on_response_message(m.SerializeToString()) for m in (*chunks, complete)]
    by.judge([piece for piece in pieces if piece is not None])
    assert [piece and piece.verdict and piece.verdict.severity for piece in pieces] == [None, None, "warning", None]
    assert pieces[-1] is not None and pieces[-1].verdict is None
    assert call.verdict is not None and call.verdict.severity == "warning"
    alone = judged(by, method, complete)  # who does not stream sends nothing else
    assert alone.verdict is not None and alone.verdict.unscored is None and len(alone.verdict.pvalues) == 1
    empty = vllm.GenerateResponse(chunk=vllm.GenerateStreamChunk(token_ids=[1]))
    again = by.call(method, {})
    assert again is not None
    pieces = [again.on_response_message(m.SerializeToString()) for m in (chunks[0], empty)]
    by.judge([piece for piece in pieces if piece is not None])
    assert pieces[-1] is not None and pieces[-1].verdict is not None
    assert pieces[-1].verdict.unscored == "missing_signal"  # a token without its probability is no summary


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_token_stream_can_be_judged_in_windows(engine: str, tokens: Path) -> None:
    method, stream, _ = ENGINES[engine]
    by = guard(engine, tokens, judge=4, session="stream")
    call = by.call(method, {})
    assert call is not None
    pieces = [
        call.on_response_message(m.SerializeToString()) for m in stream([-0.3] * 4 + [-5.0] * 4 + [-0.3] * 2)[:10]
    ]
    windows = [piece for piece in [*pieces, *call.ended()] if piece is not None]
    by.judge(windows)
    assert [len(piece.message_indices) for piece in windows] == [4, 4, 2]
    assert [piece.verdict.severity for piece in windows if piece.verdict] == [None, "warning", None]
    assert call.verdict is windows[1].verdict


@pytest.mark.parametrize("engine", list(ENGINES))
def test_log_probabilities_are_asked_for_and_taken_out_again(engine: str, tokens: Path) -> None:
    method, stream, proto = ENGINES[engine]
    by = guard(engine, tokens, ask=3)
    call = by.call(method, {})
    assert call is not None
    (edit,) = by.edits(call)
    plain = proto.GenerateRequest(request_id="r", **_prompt(engine, proto))
    changed = proto.GenerateRequest.FromString(edit.ask(plain.SerializeToString()) or b"")
    assert "3" in str(changed) and changed != plain
    response = stream([-0.5])[0]
    stripped = type(response).FromString(edit.strip(b"", response.SerializeToString()))
    assert "ogprob" not in str(MessageToDict(stripped)) and stripped.chunk.token_ids == response.chunk.token_ids
    assert edit.ask(changed.SerializeToString()) is None  # a caller who asks gets what was asked for


def _prompt(engine: str, proto: Any) -> dict[str, Any]:
    ids = "input_token_ids" if engine == "trtllm" else "input_ids"
    return {"tokenized": proto.TokenizedInput(**{ids: [1, 2, 3]})}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("vllm", vllm), ("sglang", sglang), ("trtllm", trtllm), ("mlx", mlx), ("tokenspeed", tokenspeed)],
)
def test_our_part_of_a_protocol_has_the_numbers_and_types_of_the_whole(ours: str, theirs: Any) -> None:
    compared: set[str] = set()

    def compare(mine: Any, other: Any) -> None:
        if mine.full_name in compared:
            return
        compared.add(mine.full_name)
        for field in mine.fields:
            same = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (same.number, same.type, same.is_repeated), field
            if field.message_type is not None:
                compare(field.message_type, same.message_type)

    for method in preset(ours).values():
        service, _, name = method.name[1:].partition("/")
        real = theirs.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[name]
        compare(method._request.DESCRIPTOR, real.input_type)  # type: ignore[attr-defined]
        compare(method._response.DESCRIPTOR, real.output_type)  # type: ignore[attr-defined]
        assert method.streams == real.server_streaming
    assert len(compared) > 6


# -- TensorFlow Serving and embeddings


def test_tensors_of_tensorflow_serving_are_read_typed_and_packed(bundle: Path) -> None:
    signals = {"probs": "response.outputs.probabilities", "embedding": "response.outputs.features"}
    by = guard("tfserving", bundle, signals=signals)
    predict = preset("tfserving")["/tensorflow.serving.PredictionService/Predict"]

    def response(packed: bool, dtype: str) -> Any:
        outputs = {}
        for name, signal in (("probabilities", "probs"), ("features", "embedding")):
            values = SAFE[signal][:3]
            dims = [{"size": str(n)} for n in values.shape]
            tensor: dict[str, Any] = {"dtype": dtype, "tensorShape": {"dim": dims}}
            outputs[name] = tensor
            if not packed:
                field = {"DT_FLOAT": "floatVal", "DT_DOUBLE": "doubleVal"}[dtype]
                tensor[field] = values.ravel().astype(float).tolist()
        answer = predict.answer({"outputs": outputs, "modelSpec": {"name": "m", "version": "7"}})
        for name, signal in (("probabilities", "probs"), ("features", "embedding")):
            if packed:
                kind = {"DT_FLOAT": "<f4", "DT_DOUBLE": "<f8", "DT_HALF": "<f2"}[dtype]
                answer.outputs[name].tensor_content = SAFE[signal][:3].astype(kind).tobytes()
        return answer

    request = predict._request()  # type: ignore[attr-defined]
    request.model_spec.name = "m"
    expected = Bundle.read(bundle).require_promise().judge(Bundle.read(bundle).scorer(SAFE.take(slice(0, 3)))).pvalues
    for packed, dtype in ((False, "DT_FLOAT"), (True, "DT_FLOAT"), (False, "DT_DOUBLE"), (True, "DT_DOUBLE")):
        verdict = judged(by, predict.name, response(packed, dtype), request=request).verdict
        assert verdict is not None and verdict.unscored is None and verdict.version == "7"
        assert verdict.pvalues == pytest.approx(expected, rel=1e-5)
    assert judged(by, predict.name, response(True, "DT_HALF"), request=request).verdict.unscored is None  # type: ignore[union-attr]
    text = response(True, "DT_FLOAT")
    text.outputs["features"].dtype = 7
    assert judged(by, predict.name, text, request=request).verdict.unscored == "dtype"  # type: ignore[union-attr]
    short = response(True, "DT_FLOAT")
    short.outputs["features"].tensor_content = b"1234"
    assert judged(by, predict.name, short, request=request).verdict.unscored == "shape"  # type: ignore[union-attr]


@pytest.mark.parametrize("sent", [0, 1, 2, 9])
def test_tensors_of_tensorflow_that_repeat_their_last_value_are_read(sent: int) -> None:
    """TensorFlow leaves out the end of a tensor that repeats one value, and all values where they are zero."""
    form = TensorForm("dtype", "tensor_shape.dim[].size", "tensor_content", {"FP32": "float_val"}, repeats_last=True)
    predict: Any = preset("tfserving")["/tensorflow.serving.PredictionService/Predict"]
    (find,) = finder(predict._response.DESCRIPTOR, signal_path("response.outputs.x"), {"tensorflow.TensorProto": form})
    expected = np.array([*range(1, sent + 1), *[sent] * (10 - sent)], np.float32)
    dims = [{"size": "2"}, {"size": "5"}]
    proto = {"dtype": "DT_FLOAT", "tensorShape": {"dim": dims}, "floatVal": expected[:sent].tolist()}
    tensor = find(predict.answer({"outputs": {"x": proto}}))
    assert tensor is not None and tensor.shape == (2, 5)
    np.testing.assert_array_equal(tensor.values.ravel(), expected)
    huge = predict.answer({"outputs": {"x": {**proto, "tensorShape": {"dim": [{"size": "1000000000000"}]}}}})
    with pytest.raises(Unscored, match="stands for"):
        find(huge)
    both = predict.answer({"outputs": {"x": {**proto, "floatVal": [1.0], "intVal": [1]}}})
    (strict,) = finder(
        predict._response.DESCRIPTOR,
        signal_path("response.outputs.x"),
        {"tensorflow.TensorProto": form._replace(values={"FP32": "float_val", "INT32": "int_val"}, repeats_last=False)},
    )
    with pytest.raises(Unscored, match="several fields"):
        strict(both)


def test_classifications_and_embeddings_need_no_mapping(tmp_path: Path) -> None:
    by = guard("tfserving", bundle_of(tmp_path / "p.tocsin", ["entropy"], Observations({"probs": SAFE["probs"]})))
    classify = preset("tfserving")["/tensorflow.serving.PredictionService/Classify"]
    rows = [{"classes": [{"label": "x", "score": p} for p in row]} for row in SAFE["probs"][:4].tolist()]
    verdict = judged(by, classify.name, classify.answer({"result": {"classifications": rows}})).verdict
    assert verdict is not None and verdict.unscored is None and len(verdict.pvalues) == 4
    by = guard("tei", bundle_of(tmp_path / "e.tocsin", ["mahalanobis"], Observations({"embedding": SAFE["embedding"]})))
    embed = preset("tei")["/tei.v1.Embed/Embed"]
    verdict = judged(by, embed.name, embed.answer({"embeddings": SAFE["embedding"][0].tolist()})).verdict
    assert verdict is not None and verdict.unscored is None and len(verdict.pvalues) == 1


def test_every_preset_is_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocols.md").read_text()
    for name in presets():
        assert f"| `{name}` |" in page
        assert all(method.partition("/")[0] in page for method in preset(name))


# -- the Open Inference Protocol's other half


def test_outputs_that_judging_needs_are_asked_for_and_taken_out_again(bundle: Path) -> None:
    from benchmarks.harness.model_server import model_server

    wanted_by_request: list[list[str]] = []

    def infer(request: bytes, context: Any) -> bytes:
        wanted = [output.name for output in oip.Request.FromString(request).outputs]
        wanted_by_request.append(wanted)
        answer = oip.Response(model_name="digits", id="1")
        for name, values in (("label", np.array([[3.0]], np.float32)), *SAFE.take(slice(0, 1)).items()):
            if not wanted or name in wanted:
                answer.outputs.add(name=name, datatype="FP32").shape.extend(values.shape)
                answer.raw_output_contents.append(values.tobytes())
        return bytes(answer.SerializeToString())

    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    del model_server
    try:
        for mode in ("observe", "annotate", "enforce"):
            config = settings(port, bundle, mode=mode)
            config.models["digits"].ask = True
            with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
                call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                some, everything = oip.Request(model_name="digits"), oip.Request(model_name="digits")
                some.outputs.add(name="label")
                for request, expected in ((some, ["label"]), (everything, ["label", "probs", "embedding"])):
                    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
                        content, done = call.with_call(request.SerializeToString(), timeout=60, compression=compression)
                        response = oip.Response.FromString(content)
                        assert [output.name for output in response.outputs] == expected
                        assert len(response.raw_output_contents) == len(expected) and response.id == "1"
                        if mode != "observe":
                            assert tocsin.verdict(done).unscored is None
    finally:
        server.stop(0).wait()
    assert wanted_by_request[0] == ["label", "probs", "embedding"] and wanted_by_request[2] == []


def test_streamed_inferences_are_judged_one_by_one(bundle: Path) -> None:
    by = Guard.open(settings(1, bundle))
    call = by.call(STREAM_INFER, {})
    assert call is not None
    messages = [streamed(inference(SAFE, slice(0, 2))), streamed(inference(far_away(1), slice(0, 1)))]
    failed = oip.StreamResponse(error_message="no such model").SerializeToString()
    pieces = [call.on_response_message(message) for message in (*messages, failed)]
    by.judge([piece for piece in pieces if piece is not None])
    assert [piece and piece.verdict and piece.verdict.unscored for piece in pieces] == [None, None, None]
    assert pieces[2] is not None and pieces[2].verdict is None  # a failed call is no answer
    assert call.verdict is not None and call.verdict.severity == "critical"
