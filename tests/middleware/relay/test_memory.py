"""Claims about memory: what has ended is given back at once, without the help of the collector."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, free_port, inference, quick_bundle, running, safe_traffic, settings

from tocsin.configuration.config import Config
from tocsin.judgement.model import GuardedModel
from tocsin.relay.managed import ManagedConnection
from tocsin.relay.transparent import TransparentConnection


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
                for connection in relay.sidecar.relay.context.connections:
                    assert connection.upstream.transport is not None
                    relay.loop.call_soon_threadsafe(connection.upstream.transport.abort)
                del connection
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
