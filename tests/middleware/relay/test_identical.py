"""Claim: nothing that grpcio's clients and servers can observe differs with the relay in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from benchmarks.harness.model_server import Model, model_server
from benchmarks.harness.parts import INFER, far_away, inference, running, safe_traffic, settings

from tocsin.verdict import METADATA_KEY

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
METADATA = (
    ("x-one", "1"),
    ("x-two", "first"),
    ("x-two", "second"),
    ("x-blob-bin", bytes(range(256))),
    ("x-space", "a b, c"),
    ("x-session", "s-1"),
)


class World:
    """A model server, and the same one behind relays in each mode."""

    def __init__(self, model: Model, direct: str, relayed: dict[str, str]) -> None:
        self.model = model
        self.direct = direct
        self.relayed = relayed


@pytest.fixture(scope="module")
def world(bundle: Any) -> Iterator[World]:
    with model_server() as (model, address):
        safe = safe_traffic(4, seed=3)
        model.answers = {
            b"one": inference(safe, slice(0, 1)),
            b"three": inference(safe, slice(0, 3)),
            b"far": inference(far_away(1), slice(0, 1)),
            b"typed": inference(safe, slice(0, 1), raw=False),
        }
        with (
            running(settings(address, bundle, mode="observe")) as observe,
            running(settings(address, bundle, mode="annotate")) as annotate,
            running(settings(address, bundle, mode="enforce")) as enforce,
            running(asking(settings(address, bundle, mode="annotate"))) as asking_too,
        ):
            targets = {"observe": observe, "annotate": annotate, "enforce": enforce, "asking": asking_too}
            yield World(model, address, {mode: relay.target for mode, relay in targets.items()})


def asking(config: Any) -> Any:
    """The same, with signals asked for: flow control is the relay's own in both directions."""
    config.models["digits"].ask = True
    return config


def observed(outcome: Callable[[grpc.Channel], Any], target: str) -> Any:
    """Everything that a scenario lets a caller see at a target, without the verdict."""
    with grpc.insecure_channel(target, options=UNLIMITED) as channel:
        return outcome(channel)


def observables(call: Any) -> dict[str, Any]:
    """Status, details and metadata of a finished call; grpcio's own user agent is the client's affair."""
    return {
        "code": call.code(),
        "details": call.details(),
        "initial": list(call.initial_metadata() or ()),
        "trailing": [pair for pair in call.trailing_metadata() or () if pair[0] != METADATA_KEY],
    }


def unary(method: str, request: bytes, *wishes: tuple[str, Any], **more: Any) -> Callable[[grpc.Channel], Any]:
    def scenario(channel: grpc.Channel) -> Any:
        call = channel.unary_unary(method)
        try:
            response, done = call.with_call(request, metadata=METADATA + wishes, timeout=60, **more)
        except grpc.RpcError as error:
            return {"error": True, **observables(error)}
        return {"response": response, **observables(done)}

    return scenario


def down(request: bytes, *wishes: tuple[str, Any]) -> Callable[[grpc.Channel], Any]:
    def scenario(channel: grpc.Channel) -> Any:
        call = channel.unary_stream("/test.Model/Down")(request, metadata=METADATA + wishes, timeout=60)
        received = []
        try:
            received.extend(call)
        except grpc.RpcError:
            received.append(b"<error>")
        return {"responses": received, **observables(call)}

    return scenario


def up(requests: list[bytes]) -> Callable[[grpc.Channel], Any]:
    def scenario(channel: grpc.Channel) -> Any:
        response, done = channel.stream_unary("/test.Model/Up").with_call(iter(requests), metadata=METADATA, timeout=60)
        return {"response": response, **observables(done)}

    return scenario


def both(requests: list[bytes], *wishes: tuple[str, Any]) -> Callable[[grpc.Channel], Any]:
    def scenario(channel: grpc.Channel) -> Any:
        call = channel.stream_stream("/test.Model/Both")(iter(requests), metadata=METADATA + wishes, timeout=60)
        return {"responses": list(call), **observables(call)}

    return scenario


MODES = ["observe", "annotate", "enforce", "asking"]
LARGE = bytes(range(256)) * (20 * 4096)  # 20 MiB

SCENARIOS = {
    "unary": unary("/test.Model/Unary", b"hello"),
    "unary, empty message": unary("/test.Model/Unary", b""),
    "unary, initial metadata": unary("/test.Model/Unary", b"hello", ("initial", "1")),
    "unary, 20 MiB both ways": unary("/test.Model/Unary", LARGE),
    "unary, error with details": unary("/test.Model/Unary", b"x", ("fail", "FAILED_PRECONDITION")),
    "unary, abort": unary("/test.Model/Unary", b"x", ("fail", "RESOURCE_EXHAUSTED"), ("abort", "1")),
    "unary, request gzip": unary("/test.Model/Unary", b"z" * 10_000, compression=grpc.Compression.Gzip),
    "unary, response gzip": unary("/test.Model/Unary", b"z" * 10_000, ("compress", "gzip")),
    "unknown method": unary("/test.Model/Nothing", b"x"),
    "guarded, one row": unary(INFER, b"one"),
    "guarded, three rows": unary(INFER, b"three"),
    "guarded, alarmed": unary(INFER, b"far"),
    "guarded, typed contents": unary(INFER, b"typed"),
    "guarded, not an inference": unary(INFER, b"\xff\xff\xff"),
    "guarded, empty response": unary(INFER, b""),
    "guarded, 20 MiB": unary(INFER, LARGE),
    "guarded, gzip": unary(INFER, b"one", ("compress", "gzip")),
    "guarded, error": unary(INFER, b"one", ("fail", "NOT_FOUND")),
    "guarded, abort": unary(INFER, b"one", ("fail", "UNAUTHENTICATED"), ("abort", "1")),
    "server stream": down(b"part", ("count", "200")),
    "server stream, large": down(LARGE[: 1 << 20], ("count", "8")),
    "server stream, failing": down(b"part", ("fail", "DATA_LOSS")),
    "server stream, empty": down(b"part", ("count", "0")),
    "client stream": up([b"a", b"", b"c" * 100_000, b"d"]),
    "client stream, empty": up([]),
    "both ways": both([b"abc", b"", b"de" * 50_000, b"f"]),
    "both ways, gzip": both([b"abc" * 1000, b"de" * 50_000], ("compress", "gzip")),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_a_caller_sees_the_same_with_and_without_the_relay(world: World, scenario: str, mode: str) -> None:
    expected = observed(SCENARIOS[scenario], world.direct)
    assert observed(SCENARIOS[scenario], world.relayed[mode]) == expected


@pytest.mark.parametrize("mode", MODES)
def test_deadlines_reach_the_server_and_end_the_call(world: World, mode: str) -> None:
    def scenario(channel: grpc.Channel) -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Model/Unary")(b"x", metadata=(("sleep", "3"),), timeout=0.2)
        return caught.value.code()  # type: ignore[attr-defined]

    assert (
        observed(scenario, world.relayed[mode]) == observed(scenario, world.direct) == grpc.StatusCode.DEADLINE_EXCEEDED
    )


@pytest.mark.parametrize("mode", MODES)
def test_cancellation_reaches_the_server(world: World, mode: str) -> None:
    before = world.model.cancelled
    with grpc.insecure_channel(world.relayed[mode]) as channel:
        call = channel.unary_stream("/test.Model/Down")(b"x", metadata=(("count", "1000"), ("pause", "0.01")))
        next(call)
        call.cancel()
        for _ in range(200):
            if world.model.cancelled > before:
                break
            import time

            time.sleep(0.02)
    assert world.model.cancelled == before + 1
    assert call.code() == grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("mode", MODES)
def test_slow_reader_holds_the_server_back_and_loses_nothing(world: World, mode: str) -> None:
    import time

    with grpc.insecure_channel(world.relayed[mode], options=UNLIMITED) as channel:
        call = channel.unary_stream("/test.Model/Down")(b"y" * 200_000, metadata=(("count", "60"),), timeout=60)
        sizes = []
        for number, message in enumerate(call):
            sizes.append(len(message))
            if number < 10:
                time.sleep(0.02)
    assert sizes == [200_000 + len(str(number)) for number in range(60)]


@pytest.mark.parametrize("mode", MODES)
async def test_aio_clients_see_the_same(world: World, mode: str) -> None:
    async def ask(target: str) -> Any:
        async with grpc.aio.insecure_channel(target, options=UNLIMITED) as channel:
            calls = [
                channel.unary_unary(method)(request, metadata=METADATA, timeout=60)
                for method, request in [("/test.Model/Unary", b"%d" % n) for n in range(50)] + [(INFER, b"one")] * 50
            ]
            answers = [
                (
                    await call,
                    await call.code(),
                    [p for p in await call.trailing_metadata() if p[0] != METADATA_KEY],
                )
                for call in calls
            ]
            stream = channel.stream_stream("/test.Model/Both")(iter([b"abc", b"def"]), timeout=60)
            return answers, [message async for message in stream]

    assert await ask(world.relayed[mode]) == await ask(world.direct)


@pytest.mark.parametrize("mode", MODES)
def test_large_guarded_answers_at_once_on_one_connection_each_come_whole(world: World, mode: str) -> None:
    sizes = [150_000 + 1_000 * n for n in range(24)]
    with grpc.insecure_channel(world.relayed[mode], options=UNLIMITED) as channel:
        for _ in range(6):
            requests = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
            futures = [channel.unary_unary(INFER).future(request, timeout=60) for request in requests]
            assert [future.result() for future in futures] == requests


@pytest.mark.parametrize("mode", MODES)
def test_many_calls_at_once_each_get_their_own_answer(world: World, mode: str) -> None:
    with grpc.insecure_channel(world.relayed[mode], options=UNLIMITED) as channel:
        requests = [b"%d" % n * (n % 97 * 31 + 1) for n in range(600)]
        futures = [channel.unary_unary("/test.Model/Unary").future(request, timeout=60) for request in requests]
        assert [future.result() for future in futures] == requests
