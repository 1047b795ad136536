"""Ways to ask a guarded service in every position: behind the relay, through a guarded channel, of a guarded server,
and behind a real Envoy that asks an external processor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from benchmarks.harness import ranker as acme
from benchmarks.harness.envoy import attached_envoy
from benchmarks.harness.parts import far_away, running, safe_traffic

import tocsin
from tocsin.configuration.config import Config
from tocsin.verdict import METADATA_KEY

SAFE = safe_traffic(40, seed=11)
ANSWERS = {f"safe{row}": acme.answer(SAFE, row) for row in range(40)} | {
    "far": acme.answer(far_away(1), 0),
    "empty": acme.Response(model="digits").SerializeToString(),
    "stranger": acme.Response(model="stranger").SerializeToString(),
}
POSITIONS = ["client", "aio client", "server", "aio server"]
ENVOYS_OWN = ("date", "server", "x-envoy-upstream-service-time")  # in answers that are a status alone
TIMEOUT = 60.0

Policy = dict[str, Any]


def config(bundle: Path, folder: Path, upstream: str, policy: Policy, *, behind_envoy: bool = False) -> Config:
    """The service behind `upstream`, guarded as the policy says: `mode`, `fail`, `accept_verdicts`, and the model's."""
    model = {key: value for key, value in policy.items() if key not in ("mode", "fail", "accept_verdicts")}
    where = {"ext_proc": "127.0.0.1:0"} if behind_envoy else {"listen": "127.0.0.1:0"}
    return Config(
        **where, upstream=upstream, metrics=None, admin=None, protocols=acme.protocol(folder), scoring_budget="60s",
        mode=policy["mode"], fail=policy.get("fail", "open"), accept_verdicts=policy.get("accept_verdicts", False),
        models={"digits": {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS, **model}},
    )  # fmt: skip


def outcome(responses: list[bytes], code: Any, details: str, trailing: Any) -> dict[str, Any]:
    """What a caller observes, without verdicts."""
    entries = [(key, value) for key, value in trailing or ()]
    verdicts = [value for key, value in entries if key == METADATA_KEY]
    return {
        "responses": responses,
        "code": code,
        "details": details or "",
        "verdicts": verdicts,
        "trailing": sorted(pair for pair in entries if pair[0] not in (METADATA_KEY, *ENVOYS_OWN)),
    }


def ask(channel: Any, kind: str, queries: list[str], **more: Any) -> dict[str, Any]:
    """Make a call and return what its caller observes."""
    requests = [acme.Request(query=query) for query in queries]
    asks, answers = acme.KINDS[kind]
    make = getattr(channel, f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}")
    method = make(acme.PATHS[kind], acme.Request.SerializeToString, acme.Response.FromString)
    request = iter(requests) if asks else requests[0]
    received: list[Any] = []
    try:
        if answers:
            call = method(request, timeout=TIMEOUT, **more)
            for message in call:
                received.append(message)
        else:
            message, call = method.with_call(request, timeout=TIMEOUT, **more)
            received.append(message)
    except grpc.RpcError as error:
        call = error
    contents = [message.SerializeToString(deterministic=True) for message in received]
    return outcome(contents, call.code(), call.details(), call.trailing_metadata())  # type: ignore[attr-defined]


async def ask_aio(channel: Any, kind: str, queries: list[str], **more: Any) -> dict[str, Any]:
    """The same in an event loop."""
    requests = [acme.Request(query=query) for query in queries]
    asks, answers = acme.KINDS[kind]
    make = getattr(channel, f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}")
    method = make(acme.PATHS[kind], acme.Request.SerializeToString, acme.Response.FromString)
    call = method(iter(requests) if asks else requests[0], timeout=TIMEOUT, **more)
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


Say = Callable[..., dict[str, Any]]


@contextmanager
def positioned(
    position: str,
    bundle: Path,
    folder: Path,
    policy: Policy,
    *,
    answers: dict[str, bytes] = ANSWERS,
    sequence: dict[str, list[bytes]] | None = None,
) -> Iterator[tuple[Say, acme.Ranker]]:
    """How to ask in a position, and the service that answers."""
    if position == "relay":
        with acme.ranker(answers, sequence=sequence) as (service, address):
            with running(config(bundle, folder, address, policy)) as relay:
                with grpc.insecure_channel(relay.target) as channel:
                    yield lambda *scenario, **more: ask(channel, *scenario, **more), service
        return
    if position == "envoy":
        with acme.ranker(answers, sequence=sequence) as (service, address):
            with running(config(bundle, folder, address, policy, behind_envoy=True)) as processor:
                with attached_envoy(folder / "envoy", address, processor) as envoy:
                    with grpc.insecure_channel(envoy.target) as channel:
                        yield lambda *scenario, **more: ask(channel, *scenario, **more), service
        return
    guard = tocsin.Guard.open(config(bundle, folder, "127.0.0.1:1", policy))
    if position == "client":
        with acme.ranker(answers, sequence=sequence) as (service, address):
            with tocsin.guard_channel(grpc.insecure_channel(address), guard) as channel:
                yield lambda *scenario, **more: ask(channel, *scenario, **more), service
    elif position == "server":
        with acme.ranker(answers, tocsin.server_interceptor(guard), sequence=sequence) as (service, address):
            with grpc.insecure_channel(address) as channel:
                yield lambda *scenario, **more: ask(channel, *scenario, **more), service
    elif position == "aio client":
        with acme.ranker(answers, sequence=sequence) as (service, address):

            async def aio(*scenario: Any, **more: Any) -> Any:
                async with tocsin.guard_channel(grpc.aio.insecure_channel(address), guard) as channel:
                    return await ask_aio(channel, *scenario, **more)

            yield lambda *scenario, **more: asyncio.run(aio(*scenario, **more)), service
    else:
        aio_service = acme.AioRanker(answers, sequence)

        async def served(*scenario: Any, **more: Any) -> Any:
            async with acme.aio_ranker(aio_service, tocsin.server_interceptor(guard)) as address:
                async with grpc.aio.insecure_channel(address) as channel:
                    return await ask_aio(channel, *scenario, **more)

        yield lambda *scenario, **more: asyncio.run(served(*scenario, **more)), aio_service
