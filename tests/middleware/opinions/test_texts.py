"""Claims about texts: each preset knows where questions and answers are, and other protocols are told by paths."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tocsin.protocols.descriptors import message_class
from tocsin.protocols.protocol import preset, routes
from tocsin.protocols.settings import ProtocolConfig
from tocsin.protocols.texts import Conversation, Texts
from tocsin.unscored import Unscored

HI = [{"role": "user", "content": "hi"}]


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("protocol", "route", "request_body", "responses"),
    [
        ("openai", "/v1/chat/completions", {"messages": HI}, [{"choices": [{"message": {"content": "yes"}}]}]),
        (
            "openai", "/v1/chat/completions", {"messages": HI},
            [{"choices": [{"delta": {"content": text}}]} for text in ("", "y", "es", None)] + [{"choices": []}],
        ),
        ("openai", "/v1/completions", {"prompt": "hi"}, [{"choices": [{"text": "y"}]}, {"choices": [{"text": "es"}]}]),
        (
            "openai", "/v1/responses", {"input": "hi"},
            [{"output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]}],
        ),
        ("openai", "/v1/responses", {"input": HI}, [{"delta": "y"}, {"delta": "es"}]),
        ("anthropic", "/v1/messages", {"messages": HI}, [{"content": [{"type": "text", "text": "yes"}]}]),
        ("anthropic", "/v1/messages", {"messages": HI}, [{"delta": {"text": "y"}}, {"delta": {"text": "es"}}]),
        ("ollama", "/api/chat", {"messages": HI}, [{"message": {"content": "yes"}}]),
        ("ollama", "/api/generate", {"prompt": "hi"}, [{"response": "y"}, {"response": "es", "done": True}]),
    ],
)  # fmt: skip
def test_presets_know_where_texts_are(protocol: str, route: str, request_body: Any, responses: list[Any]) -> None:
    texts = Texts(preset(protocol)[f"POST {route}"])
    assert texts.read(encoded(request_body), [encoded(part) for part in responses]) == Conversation("hi", "yes")


def test_a_conversation_of_several_messages_names_who_says_what() -> None:
    parts = [{"type": "text", "text": "what is"}, {"type": "image_url", "image_url": {"url": "x"}}, {"text": "this?"}]
    messages = [
        {"role": "system", "content": "be short"}, {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": "well?"},
    ]  # fmt: skip
    texts = Texts(preset("openai")["POST /v1/chat/completions"])
    question, answer, turns = texts.read(encoded({"messages": messages}), [encoded({"choices": [{"message": {}}]})])
    assert turns == (("system", "be short"), ("user", "what is\nthis?"), ("user", "well?"))
    assert question == "system: be short\nuser: what is\nthis?\nuser: well?"
    assert answer == ""


def test_a_protocol_of_ones_own_is_read_by_its_paths() -> None:
    method = {"question": "request.rows[0].text", "answer": "response.said | response.other[-1]"}
    (scored,) = routes(ProtocolConfig(methods={"POST /score": method})).values()
    request = encoded({"rows": [{"text": "a"}, {"text": "b"}]})
    assert Texts(scored).read(request, [encoded({"other": ["x", "y"]})]) == Conversation("a", "y")
    assert Texts(scored, "request.rows[].text").read(request, [encoded({"said": "z"})]) == Conversation("a\nb", "z")
    assert Texts(scored).read(None, [encoded({"said": "z"})]) == Conversation("", "")


def test_fields_of_grpc_messages_are_read_by_their_paths() -> None:
    request = message_class("vllm_inference", "vllm.GenerateRequest")(model="m", session_id="hi")
    kind = message_class("vllm_inference", "vllm.GenerateResponse")
    responses = [kind(), kind()]
    for response, text in zip(responses, ("y", "es"), strict=True):
        response.outputs.text = text
    texts = Texts(
        preset("vllm_inference")["/vllm.Inference/GenerateStream"], "request.session_id", "response.outputs.text"
    )
    messages = [response.SerializeToString() for response in responses]
    assert texts.read(request.SerializeToString(), messages) == Conversation("hi", "yes")
    assert Texts(
        preset("vllm_inference")["/vllm.Inference/GenerateStream"], "request.nothing", "response.outputs.text"
    ).read(request.SerializeToString(), messages) == Conversation("", "yes")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_message_is_undecodable(content: bytes) -> None:
    texts = Texts(preset("openai")["POST /v1/chat/completions"])
    with pytest.raises(Unscored):
        texts.read(content, [b"{}"])
    with pytest.raises(Unscored):
        texts.read(b"{}", [content])
    assert texts.read(b"[1, null]", [b"3"]) == Conversation("", "")


@pytest.mark.parametrize(
    ("protocol", "name", "problem"),
    [
        ("oip", "/inference.GRPCInferenceService/ModelInfer", "its messages are tensors"),
        ("vllm_inference", "/vllm.Inference/Generate", "the protocol does not know where this text is"),
    ],
)
def test_messages_without_known_texts_are_refused_with_what_to_do(protocol: str, name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Texts(preset(protocol)[name])
