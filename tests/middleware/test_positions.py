"""Claim: relay, client wrapper and server interceptor, sync and aio, decide and act alike on every kind of call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests import ranker as acme
from tests.parts import far_away, running, safe_traffic

import tocsin
from tocsin.configuration.config import Config
from tocsin.verdict import METADATA_KEY

SAFE = safe_traffic(40, seed=11)
ANSWERS = {f"safe{row}": acme.answer(SAFE, row) for row in range(40)} | {
    "far": acme.answer(far_away(1), 0),
    "empty": acme.Response(model="digits").SerializeToString(),
    "stranger": acme.Response(model="stranger").SerializeToString(),
}
SCENARIOS = {
    "one, safe": ("Rank", ["safe3"]),
    "one, far": ("Rank", ["far"]),
    "one, without signals": ("Rank", ["empty"]),
    "one, of a stranger": ("Rank", ["stranger"]),
    "watch, safe": ("Watch", ["safe3 safe4 safe5"]),
    "watch, far in the middle": ("Watch", ["safe3 far safe5"]),
    "watch, without signals": ("Watch", ["safe3 empty safe5"]),
    "sum, safe": ("Sum", ["far", "safe3"]),
    "sum, far": ("Sum", ["safe3", "far"]),
    "chat, safe": ("Chat", ["safe3", "safe4", "safe5"]),
    "chat, far at the end": ("Chat", ["safe3", "safe4", "far"]),
}
ABSTAIN = {"response": {"model": "nobody"}, "keep": ["id"]}
POLICIES: dict[str, dict[str, Any]] = {
    "observe": {"mode": "observe"},
    "annotate": {"mode": "annotate"},
    "flag": {"mode": "enforce"},
    "block": {"mode": "enforce", "on_alarm": {"critical": "block"}, "fail": "closed"},
    "abstain": {"mode": "enforce", "on_alarm": {"critical": "abstain"}, "abstain": ABSTAIN},
    "end": {"mode": "enforce", "on_alarm": {"critical": "block"}, "judge": "end"},
    "retry": {"mode": "enforce", "on_alarm": {"critical": "retry"}, "retry": {"most": 2, "otherwise": "block"}},
}
POSITIONS = ["client", "aio client", "server", "aio server"]


def config(bundle: Path, folder: Path, upstream: str, policy: str) -> Config:
    told = dict(POLICIES[policy])
    mode, fail = told.pop("mode"), told.pop("fail", "open")
    model = {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS, **told}
    return Config(
        listen="127.0.0.1:0", upstream=upstream, mode=mode, fail=fail, metrics=None, admin=None,
        protocols=acme.protocol(folder), models={"digits": model},
    )  # fmt: skip


def outcome(responses: list[bytes], code: Any, details: str, trailing: Any) -> dict[str, Any]:
    entries = [(key, value) for key, value in trailing or ()]
    verdicts = [value for key, value in entries if key == METADATA_KEY]
    return {
        "responses": responses,
        "code": code,
        "details": details or "",
        "verdicts": verdicts,
        "trailing": sorted(pair for pair in entries if pair[0] != METADATA_KEY),
    }


def ask(channel: grpc.Channel, kind: str, queries: list[str]) -> dict[str, Any]:
    """What a caller sees."""
    requests = [acme.Request(query=query) for query in queries]
    asks, answers = acme.KINDS[kind]
    make = getattr(channel, f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}")
    method = make(acme.PATHS[kind], acme.Request.SerializeToString, acme.Response.FromString)
    request = iter(requests) if asks else requests[0]
    received: list[Any] = []
    try:
        if answers:
            call = method(request, timeout=10)
            for message in call:
                received.append(message)
        else:
            message, call = method.with_call(request, timeout=10)
            received.append(message)
    except grpc.RpcError as error:
        call = error
    contents = [message.SerializeToString(deterministic=True) for message in received]
    return outcome(contents, call.code(), call.details(), call.trailing_metadata())  # type: ignore[attr-defined]


async def ask_aio(channel: grpc.aio.Channel, kind: str, queries: list[str]) -> dict[str, Any]:
    requests = [acme.Request(query=query) for query in queries]
    asks, answers = acme.KINDS[kind]
    make = getattr(channel, f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}")
    method = make(acme.PATHS[kind], acme.Request.SerializeToString, acme.Response.FromString)
    call = method(iter(requests) if asks else requests[0], timeout=10)
    received: list[Any] = []
    try:
        if answers:
            async for message in call:
                received.append(message)
        else:
            received.append(await call)
    except grpc.aio.AioRpcError:
        pass
    contents = [message.SerializeToString(deterministic=True) for message in received]
    return outcome(contents, await call.code(), await call.details(), await call.trailing_metadata())


@pytest.fixture(scope="module", params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(policy: str, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What callers see behind the relay, which sync and aio callers must see alike."""
    folder = tmp_path_factory.mktemp("relay")
    with acme.ranker(ANSWERS) as (_, address), running(config(bundle, folder, address, policy)) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            seen = {name: ask(channel, *scenario) for name, scenario in SCENARIOS.items()}

        async def aio() -> dict[str, Any]:
            async with grpc.aio.insecure_channel(relay.target) as channel:
                return {name: await ask_aio(channel, *scenario) for name, scenario in SCENARIOS.items()}

        assert asyncio.run(aio()) == seen
    return seen


def test_the_relay_does_what_the_policy_says(policy: str, expected: dict[str, Any]) -> None:
    ok, far = grpc.StatusCode.OK, expected["one, far"]
    assert [s["code"] for s in expected.values() if s is expected["one, safe"]] == [ok]
    if policy == "observe":
        assert all(not seen["verdicts"] and seen["code"] is ok for seen in expected.values())
    elif policy in ("annotate", "flag"):
        assert all(len(seen["verdicts"]) == 1 and seen["code"] is ok for seen in expected.values())
    elif policy == "abstain":
        assert acme.Response.FromString(far["responses"][0]) == acme.Response(model="nobody", id="0")
    else:
        assert (far["code"], far["responses"]) == (grpc.StatusCode.PERMISSION_DENIED, [])
    if policy == "block":
        assert expected["one, without signals"]["code"] is grpc.StatusCode.UNAVAILABLE
        assert len(expected["watch, without signals"]["responses"]) == 1
        assert expected["watch, far in the middle"]["code"] is grpc.StatusCode.PERMISSION_DENIED
    if policy == "end":
        assert expected["watch, far in the middle"]["responses"] == []


@contextmanager
def positioned(position: str, bundle: Path, folder: Path, policy: str) -> Iterator[Callable[[str, list[str]], Any]]:
    """How to ask in a position."""
    guard = tocsin.Guard.open(config(bundle, folder, "127.0.0.1:1", policy))
    if position == "client":
        with acme.ranker(ANSWERS) as (_, address):
            with tocsin.guard_channel(grpc.insecure_channel(address), guard) as channel:
                yield lambda *scenario: ask(channel, *scenario)
    elif position == "server":
        with acme.ranker(ANSWERS, tocsin.server_interceptor(guard)) as (_, address):
            with grpc.insecure_channel(address) as channel:
                yield lambda *scenario: ask(channel, *scenario)
    elif position == "aio client":
        with acme.ranker(ANSWERS) as (_, address):

            async def aio(*scenario: Any) -> Any:
                async with tocsin.guard_channel(grpc.aio.insecure_channel(address), guard) as channel:
                    return await ask_aio(channel, *scenario)

            yield lambda *scenario: asyncio.run(aio(*scenario))
    else:

        async def served(*scenario: Any) -> Any:
            made = acme.AioRanker()
            made.answers = ANSWERS
            server = grpc.aio.server(interceptors=[tocsin.server_interceptor(guard)])
            server.add_generic_rpc_handlers((made,))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    return await ask_aio(channel, *scenario)
            finally:
                await server.stop(0)

        yield lambda *scenario: asyncio.run(served(*scenario))


@pytest.mark.parametrize("position", POSITIONS)
def test_every_position_decides_and_acts_as_the_relay_does(
    position: str, policy: str, expected: dict[str, Any], bundle: Path, tmp_path: Path
) -> None:
    with positioned(position, bundle, tmp_path, policy) as say:
        for name, scenario in SCENARIOS.items():
            seen = say(*scenario)
            if policy == "observe":  # a client sees its own verdict in every mode; servers and the relay add none
                seen = {**seen, "verdicts": []}
            assert seen == expected[name], name


@pytest.mark.parametrize("position", ["client", "server"])
def test_a_fallback_is_asked_in_every_position(position: str, bundle: Path, tmp_path: Path) -> None:
    with acme.ranker({"far": ANSWERS["safe5"]}) as (safer, address):
        POLICIES["fallback"] = {
            "mode": "enforce",
            "on_alarm": {"critical": "fallback"},
            "fallback": {"upstream": address},
        }
        with positioned(position, bundle, tmp_path, "fallback") as say:
            seen = say("Rank", ["far"])
        del POLICIES["fallback"]
    assert acme.Response.FromString(seen["responses"][0]) == acme.Response.FromString(ANSWERS["safe5"])
    assert safer.asked == ["far"]
