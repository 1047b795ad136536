"""Claims about HTTP protocols: each preset reads what its servers write, a route of one's own is a few lines, and what
does not fit is refused with the setting to change."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from benchmarks.harness.parts import SIGNALS, inference, safe_traffic, settings
from pydantic import ValidationError
from typer.testing import CliRunner

import tocsin
from tocsin.checking import problems_of
from tocsin.cli.main import app
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import Exchanges
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.protocols.protocol import is_http, preset, presets
from tocsin.unscored import Unscored

JSON = {"content-type": "application/json"}


def opened(protocol: Any, route: str, headers: dict[str, str] | None = None, **model: Any) -> Exchange:
    """An exchange on a route of a protocol, by its name or its settings."""
    protocols = {} if isinstance(protocol, str) else {"own": protocol}
    name = protocol if isinstance(protocol, str) else "own"
    config = Config(protocols=protocols, models={"m": {"protocol": name, **model}})  # type: ignore[arg-type]
    verb, _, path = route.partition(" ")
    exchange = Exchanges(Guard.open(config)).open(verb, path, (headers or {}).items())
    assert exchange is not None
    return exchange


def pieces_of(exchange: Exchange, body: Any, headers: dict[str, str], request: Any = None) -> list[Call]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    exchange.on_request(request if isinstance(request, bytes) else json.dumps(request or {}).encode())
    exchange.on_response_headers(200, headers.items())
    segments = exchange.on_response_chunk(content) + exchange.on_response_end()
    assert b"".join(segment.raw for segment in segments) == content
    pieces = [exchange.call.on_response_message(*message) for segment in segments for message in segment.messages]
    return [piece for piece in pieces if piece is not None] + exchange.call.ended()


def signals(exchange: Exchange, body: Any, headers: dict[str, str] = JSON, request: Any = None) -> dict[str, Any]:
    """The signals of a response's only piece. Raises Unscored."""
    (piece,) = pieces_of(exchange, body, headers, request)
    if piece.fault is not None:
        raise Unscored(*piece.fault)
    assert piece.response is not None
    messages = [piece.reads.open(message, piece.request) for message in (*piece.earlier, piece.response)]
    rows, family, raws = exchange.guard.models["m"].readers.by_method[piece.method].read(messages, piece.request)
    read = {name: values.tolist() for name, values in family.stack([raws]).items()}
    assert all(len(values) == rows for values in read.values())
    return read


TOP = [
    {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]}
]
PRESETS: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "completions": (
        "openai", "POST /v1/completions",
        {"model": "m", "choices": [{"index": 0, "text": "a b", "logprobs": {"token_logprobs": [-0.5, -1.5]}}]},
        {"token_logprobs": [[-0.5, -1.5]]},
    ),
    "embeddings": (
        "openai", "POST /v1/embeddings",
        {"model": "m", "data": [{"index": 0, "embedding": [1, 2.5]}, {"index": 1, "embedding": [3, 4]}]},
        {"embedding": [[1, 2.5], [3, 4]]},
    ),
    "embeddings in base64": (
        "openai", "POST /v1/embeddings",
        {"model": "m", "data": [{"embedding": b64encode(np.array([v, 2.5], "<f4")).decode()} for v in (1, 3)]},
        {"embedding": [[1, 2.5], [3, 2.5]]},
    ),
    "responses": (
        "openai", "POST /v1/responses",
        {"model": "m", "output": [{"type": "reasoning"}, {"content": [{"text": "a", "logprobs": TOP}]}]},
        {"token_logprobs": [[-0.5]], "top_logprobs": [[-0.5, -1]]},
    ),
    "ollama": (
        "ollama", "POST /api/chat", {"model": "m", "message": {"content": "a"}, "logprobs": TOP, "done": True},
        {"token_logprobs": [[-0.5]], "top_logprobs": [[-0.5, -1]]},
    ),
    "ollama's embeddings": (
        "ollama", "POST /api/embed", {"model": "m", "embeddings": [[1, 2], [3, 4]]}, {"embedding": [[1, 2], [3, 4]]},
    ),
    "embed": ("tei_http", "POST /embed", [[1, 2], [3, 4.5]], {"embedding": [[1, 2], [3, 4.5]]}),
    "predict": ("tei_http", "POST /predict", [{"score": 0.9, "label": "a"}, {"score": 0.1, "label": "b"}],
                {"probs": [[0.9, 0.1]]}),
    "predict, several": ("tei_http", "POST /predict",
                         [[{"score": 0.9}, {"score": 0.1}], [{"score": 0.4}, {"score": 0.6}]],
                         {"probs": [[0.9, 0.1], [0.4, 0.6]]}),
    "rerank": ("tei_http", "POST /rerank", [{"index": 1, "score": 0.5}, {"index": 0, "score": 0.25}],
               {"prediction": [[0.5], [0.25]]}),
    "regress": ("tfserving_http", "POST /v1/models/m:regress", {"results": [0.5, 1.5]}, {"prediction": [[0.5], [1.5]]}),
}  # fmt: skip


@pytest.mark.parametrize("case", PRESETS)
def test_presets_read_what_their_servers_write(case: str) -> None:
    protocol, route, body, expected = PRESETS[case]
    read = signals(opened(protocol, route), body)
    assert set(read) == set(expected)
    for name, values in expected.items():
        assert len(read[name]) == len(values)
        assert np.array_equal(np.array(read[name], np.float32).ravel(), np.array(values, np.float32).ravel())


def test_tensorflow_serving_tells_model_and_version_by_its_path() -> None:
    path = "POST /v1/models/m/versions/7:predict"
    exchange = opened("tfserving_http", path, signals={"probs": "response.predictions[*].probs"})
    body = {"predictions": [{"probs": [0.25, 0.75], "label": 1}, {"probs": [0.5, 0.5], "label": 0}]}
    assert signals(exchange, body) == {"probs": [[0.25, 0.75], [0.5, 0.5]]}
    assert (exchange.call.hint, exchange.call.keys["path.version"]) == ("m", "7")


TENSORS = {"signals": {"probs": "response.outputs.probs", "image": "request.inputs.image"}}


def infer(**parameters: Any) -> dict[str, Any]:
    text = {"name": "label", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    return {"model_name": "m", "outputs": [text, {"name": "probs", "shape": [2, 2], "datatype": "FP64", **parameters}]}


REQUEST = {"inputs": [{"name": "image", "shape": [2, 1], "datatype": "UINT8", "data": [7, 9]}]}


@pytest.mark.parametrize("data", [[0.25, 0.75, 0.5, 0.5], [[0.25, 0.75], [0.5, 0.5]]])
def test_tensors_are_read_in_json(data: Any) -> None:
    exchange = opened("oip_http", "POST /v2/models/m/infer", **TENSORS)
    read = signals(exchange, infer(data=data), request=REQUEST)
    assert read == {"probs": [[0.25, 0.75], [0.5, 0.5]], "image": [[7], [9]]}


def test_tensors_are_read_as_binary_data_as_the_client_of_triton_asks_for_them() -> None:
    values = np.array([0.25, 0.75, 0.5, 0.5])
    document = json.dumps(infer(parameters={"binary_data_size": 32})).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(document))}
    image = {"name": "image", "shape": [2, 1], "datatype": "UINT8", "parameters": {"binary_data_size": 2}}
    question = json.dumps({"inputs": [image]}).encode()
    exchange = opened(
        "oip_http", "POST /v2/models/m/infer", {"inference-header-content-length": str(len(question))}, **TENSORS
    )
    read = signals(exchange, document + values.tobytes(), headers, question + b"\7\t")
    assert read == {"probs": [[0.25, 0.75], [0.5, 0.5]], "image": [[7], [9]]}
    for wrong in (document + values.tobytes()[:-1], document + values.tobytes() + b"x", document[:-1]):
        exchange = opened("oip_http", "POST /v2/models/m/infer", **TENSORS)
        (piece,) = pieces_of(exchange, wrong, headers, REQUEST)
        assert piece.fault is not None and piece.fault[0] == "undecodable"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (infer(data=[1, 2, 3]), "shape"),
        (infer(data=[[1], [2, 3]]), "shape"),
        (infer(), "missing_signal"),
        ({"outputs": []}, "missing_signal"),
        ({"outputs": [infer(data=[1, 2, 3, 4])["outputs"][1]] * 2}, "undecodable"),
        ({"outputs": [{"name": "probs", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}]}, "dtype"),
        ({"outputs": [{"name": "probs", "shape": [1, "a"], "datatype": "FP32", "data": [1]}]}, "undecodable"),
        ({"outputs": [{"name": "probs", "shape": [1e300, 1], "datatype": "FP32", "data": [1]}]}, "shape"),
    ],
)  # fmt: skip
def test_tensors_that_are_none_are_unscored(body: Any, reason: str) -> None:
    exchange = opened("oip_http", "POST /v2/models/m/infer", **TENSORS)
    with pytest.raises(Unscored) as raised:
        signals(exchange, body, request=REQUEST)
    assert raised.value.reason == reason


def test_events_of_the_responses_api_are_judged_once() -> None:
    events = [
        {"type": "response.created", "response": {"model": "m", "output": []}},
        {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
        {"type": "response.output_text.delta", "delta": "a", "logprobs": TOP},
        {"type": "response.output_text.delta", "delta": "b", "logprobs": [{"token": "b", "logprob": -2}]},
        {"type": "response.output_text.done", "text": "ab", "logprobs": [*TOP, {"token": "b", "logprob": -2}]},
        {"type": "response.completed", "response": {"model": "m", "output": [{"content": [{"logprobs": TOP}]}]}},
    ]
    content = b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)  # type: ignore[attr-defined, index]
    exchange = opened("openai", "POST /v1/responses", signals={"token_logprobs": "response.logprobs[].logprob"})
    (piece,) = pieces_of(exchange, content, {"content-type": "text/event-stream"})
    messages = [piece.reads.open(message, None) for message in (*piece.earlier, piece.response or b"")]
    assert messages[0].model == "m"
    _, family, raws = exchange.guard.models["m"].readers.by_method[piece.method].read(messages, None)
    read = family.stack([raws])
    assert read["token_logprobs"].tolist() == [[-0.5, -2]]


def test_lines_of_json_are_a_stream() -> None:
    lines = [{"model": "m", "message": {"content": text}, "logprobs": TOP, "done": False} for text in "ab"]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, {"model": "m", "done": True}])
    exchange = opened("ollama", "POST /api/chat", signals={"token_logprobs": "response.logprobs[].logprob"})
    (piece,) = pieces_of(exchange, content, {"content-type": "application/x-ndjson"})
    assert len(piece.message_indices) == 3


SCORING = {
    "methods": {
        "POST /v1/score/{model}": {
            "model": "path.model",
            "version": "response.version",
            "signals": {"probs": "response.scores[cat,dog]"},
        }
    }
}


def test_a_route_of_ones_own_is_a_few_lines() -> None:
    exchange = opened(SCORING, "POST /v1/score/m?x=1", session="request.user", signals={"place": "request.at[0]"})
    body = {"scores": {"dog": 0.25, "bird": 1, "cat": 0.5}, "version": 3}
    request = {"user": "u1", "at": [4, 5]}
    (piece,) = pieces_of(exchange, body, JSON, request)
    model = exchange.guard.models["m"]
    assert model.session_of(piece) == "u1"
    assert piece.response is not None
    assert piece.reads.open(piece.response, piece.request).version == "3"
    exchange = opened(SCORING, "POST /v1/score/m", signals={"place": "request.at[0]"})
    assert signals(exchange, body, request=request) == {"place": [[4]]}
    assert signals(opened(SCORING, "POST /v1/score/m"), body) == {"probs": [[0.5, 0.25]]}


@pytest.mark.parametrize(
    "request_body",
    [b'{"user":"u1","user":"u2"}', b'{"user":"u1","User":"u2"}', b'{"user":"u1","us\\u0065r":"u2"}'],
)  # fmt: skip
def test_a_caller_cannot_tell_us_one_session_and_the_server_another(request_body: bytes) -> None:
    exchange = opened(SCORING, "POST /v1/score/m", session="request.user")
    (piece,) = pieces_of(exchange, {"scores": {"dog": 1, "cat": 1}}, JSON, request_body)
    assert exchange.guard.models["m"].session_of(piece) == ""
    exchange = opened(SCORING, "POST /v1/score/m", signals={"place": "request.at[0]"})
    with pytest.raises(Unscored, match="two members"):
        signals(exchange, {"scores": {"dog": 1, "cat": 1}}, request=b'{"at":[1],"at":[2]}')


def routes(**more: Any) -> dict[str, Any]:
    return {"protocols": {"own": {"methods": {"POST /v1/score": more}}}, "models": {"m": {"protocol": "own"}}}


GRPC = {"descriptors": "x.binpb", "methods": {"/a.B/C": {}}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    (routes(ids={"request": "a", "response": "b"}), r"methods\.POST /v1/score\.ids: is a setting of gRPC methods"),
    ({"protocols": {"own": {**SCORING, "descriptors": "x.binpb"}}}, r"descriptors: is a setting of gRPC protocols"),
    ({"protocols": {"own": {"methods": {**SCORING["methods"], "/a.B/C": {}}}}}, r"/a\.B/C: a protocol has methods of"),
    ({"protocols": {"own": {**GRPC, "methods": {"/a.B/C": {"done": "x"}}}}}, r"done: is a setting of HTTP routes"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "problem"), REFUSED)
def test_settings_of_the_other_transport_are_refused(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Config(**{"models": {"m": {"protocol": "own"}}, **more})


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ({"signals": {"probs": "response.a..b"}}, r"POST /v1/score: 'a\.\.b' is no path"),
        ({"signals": {"probs": "response.a[x]"}}, r"say which member of 'a\[x\]' is meant"),
        ({"model": "somewhere"}, r"expected request\.PATH, response\.PATH, metadata\.HEADER or path\.NAME"),
        ({"sequence": "response.index"}, r"add `streams: true`"),
        ({"ask": {"unless": "a[]", "set": {}, "strip": []}}, r"ask\.unless: 'a\[\]' must"),
    ],
)  # fmt: skip
def test_paths_that_are_none_are_refused(method: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config = Config(**routes(**method))
        config.models["m"].ask = True
        Guard.open(config)


def test_the_check_takes_models_of_http_for_the_relay_and_for_programs(tmp_path: Path) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_text(yaml.safe_dump({"models": {"m": {"protocol": "openai"}}}))
    assert problems_of(Config.load(path))[0] == []
    result = CliRunner().invoke(app, ["config", "check", str(path)])
    assert (result.exit_code, "m (no bundle)" in result.output) == (0, True)
    result = CliRunner().invoke(app, ["config", "check", "--in-program", str(path)])
    assert (result.exit_code, "in a program, guards m (no bundle)" in result.output) == (0, True)


def test_positions_of_grpc_refuse_a_guard_of_http() -> None:
    guard = Guard.open(Config(models={"m": {"protocol": "openai"}}))
    with pytest.raises(ConfigError, match=r"guard_channel judges protocols of gRPC.*m \(openai\)"):
        tocsin.guard_channel(grpc.insecure_channel("127.0.0.1:1"), guard)
    with pytest.raises(ConfigError, match=r"server_interceptor judges protocols of gRPC"):
        tocsin.server_interceptor(guard)


def test_every_preset_of_http_is_all_http() -> None:
    assert {name for name in presets() if is_http(name)} == {
        "anthropic", "oip_http", "ollama", "openai", "tei_http", "tfserving_http",
    }  # fmt: skip
    assert all(route.startswith("POST /") for name in presets() if is_http(name) for route in preset(name))


def test_a_guard_of_both_judges_each_where_it_is(bundle: Path) -> None:
    both = settings(1, bundle)
    both = Config(
        models={"digits": {"bundle": bundle, "signals": SIGNALS}, "m": {"protocol": "openai"}},
    )
    guard = Guard.open(both)
    tocsin.guard_channel(grpc.insecure_channel("127.0.0.1:1"), guard)
    assert Exchanges(guard).open("POST", "/v1/completions", ()) is not None
    call = guard.call("/inference.GRPCInferenceService/ModelInfer", {})
    assert call is not None
    call.on_response_message(inference(safe_traffic(1), slice(0, 1)))
    guard.judge([call])
    assert call.verdict is not None and call.verdict.unscored is None
