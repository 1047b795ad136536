"""Claims about memory: what has ended is given back at once, without the help of the collector."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from benchmarks.harness.by_hand import fields, relaying_by_hand
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, free_port, inference, quick_bundle, running, safe_traffic, settings
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame

from tocsin.configuration.config import Config
from tocsin.grpc_wire.deframer import framed
from tocsin.http2.frames import PREFACE
from tocsin.judgement.model import GuardedModel
from tocsin.relay.endpoint import Endpoint
from tocsin.relay.managed import ManagedConnection
from tocsin.relay.transparent import TransparentConnection
from tocsin.verdict import ROWS_TOLD


@pytest.fixture
def without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def there() -> set[int]:
    """The connections that the process holds, by identity: nothing holds them for the sake of being asked."""
    return {id(held) for held in gc.get_objects() if type(held) in (ManagedConnection, TransparentConnection)}


def gone(identities: set[int]) -> bool:
    ends = time.monotonic() + 60
    while identities & there():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
@pytest.mark.parametrize("first", ["client", "upstream", "refused"])
def test_a_connection_that_has_ended_is_forgotten(
    mode: str, first: str, bundle: Path, without_the_collector: None
) -> None:
    with model_server() as (model, address):
        model.answers = {b"x": inference(safe_traffic(1), slice(0, 1))}
        target = address if first != "refused" else f"127.0.0.1:{free_port()}"
        with running(settings(target, bundle, mode=mode)) as relay:
            channel = grpc.insecure_channel(relay.target)
            if first == "refused":
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(INFER)(b"x", timeout=60)
            else:
                channel.unary_unary(INFER)(b"x")
            before = {id(connection) for connection in relay.sidecar.relay.context.connections}
            assert before <= there()
            if first == "client":
                assert before
                channel.close()
            elif first == "upstream":
                assert before
                for connection in list(relay.sidecar.relay.context.connections):
                    upstream: Endpoint = connection.upstream  # type: ignore[attr-defined]
                    assert upstream.transport is not None
                    relay.loop.call_soon_threadsafe(upstream.transport.abort)
                del connection, upstream
            assert gone(before)
            channel.close()


def test_a_reload_leaves_no_model_behind(tmp_path: Path, without_the_collector: None) -> None:
    quick_bundle(tmp_path / "digits.tocsin")
    path = tmp_path / "tocsin.yaml"
    content = {
        "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "admin": None, "metrics": None,
        "models": {"digits": {"bundle": "digits.tocsin", "signals": SIGNALS}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    with running(Config.load(path), path=path) as relay:
        before = sum(type(held) is GuardedModel for held in gc.get_objects())
        for _ in range(3):
            relay.call(relay.sidecar.reloader.reload())
        assert sum(type(held) is GuardedModel for held in gc.get_objects()) == before


def test_of_a_large_response_an_open_stream_keeps_what_its_trailers_tell(bundle: Path) -> None:
    request_block = fields((":method", "POST"), (":path", INFER), ("content-type", "application/grpc"))
    response_block = fields((":status", "200"), ("content-type", "application/grpc"))
    content = framed(inference(safe_traffic(300), slice(0, 300)))

    async def relayed() -> None:
        _, connection, _, _ = relaying_by_hand(bundle, "annotate")
        greeting = SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize()
        connection.downstream.data_received(PREFACE + greeting)
        connection.upstream.data_received(greeting)
        connection.downstream.data_received(HeadersFrame(1, data=request_block, flags=["END_HEADERS"]).serialize())
        connection.upstream.data_received(HeadersFrame(1, data=response_block, flags=["END_HEADERS"]).serialize())
        for start in range(0, len(content), 16_384):
            connection.upstream.data_received(DataFrame(1, data=content[start : start + 16_384]).serialize())
        for _ in range(10):  # turns, in which it is judged
            await asyncio.sleep(0)
        call = connection.streams[1].call
        assert call is not None and call.verdict is not None
        assert (call.verdict.rows, call.response) == (300, None)
        assert len(call.verdict.pvalues) == ROWS_TOLD

    asyncio.run(relayed())
