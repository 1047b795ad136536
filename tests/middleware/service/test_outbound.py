"""Claims about the calls that Tocsin makes itself: what goes along with them, and which connections they use."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.certificates import Authority
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER
from hypothesis import given
from hypothesis import strategies as st

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.memory import MemoryBudget
from tocsin.outbound import (
    CONNECTION_METADATA,
    AioChannels,
    Channels,
    Sending,
    Target,
    aio_channels,
    forward_fields,
    forward_metadata,
)

DOWN = "/test.Model/Down"  # three messages, each the request and a digit


def at(address: str, **more: Any) -> Target:
    host, _, port = address.rpartition(":")
    return Target(Address(host, int(port)), **more)


def sending(request: bytes = b"x", method: str = INFER, **more: Any) -> Sending:
    fields: dict[str, Any] = {"metadata": (), "seconds": 5.0, "streams": method == DOWN, "limit": 1 << 20, **more}
    return Sending(method, request, **fields)


keys = st.from_regex(r"[a-z0-9_.-]{1,20}", fullmatch=True)


@given(st.lists(st.tuples(keys, st.text("abc", max_size=3))))
def test_metadata_is_left_out_by_its_whole_name_alone(pairs: list[tuple[str, str]]) -> None:
    assert forward_metadata(pairs) == [pair for pair in pairs if pair[0] not in CONNECTION_METADATA]


def test_neighbours_of_what_is_left_out_go_along() -> None:
    names = [f"{name}{end}" for name in CONNECTION_METADATA for end in ("x", "-id", "2")] + [
        "tenant",
        "team",
        "hostname",
    ]
    assert [name for name, _ in forward_metadata([(name, "1") for name in names])] == names
    assert (
        forward_metadata([(":path", "/x"), (":authority", "y"), *((name, "1") for name in CONNECTION_METADATA)]) == []
    )


def test_binary_fields_are_decoded_and_what_cannot_be_sent_is_left_out() -> None:
    fields = [
        ("a-bin", "AAEC"),
        ("b-bin", "AAE"),
        ("c-bin", "\0\1raw"),
        ("d-bin", "AAEC,AAE"),
        ("e-bin", "A"),
        ("f", ""),
    ]
    fields += [("g", "\xfc"), ("h", "a\nb"), ("Upper", "x"), ("i j", "x"), ("k", "~ok")]
    assert forward_fields(fields) == [
        ("a-bin", b"\0\1\2"), ("b-bin", b"\0\1"), ("c-bin", b"\1raw"), ("d-bin", b"\0\1\2"), ("d-bin", b"\0\1"),
        ("f", ""), ("k", "~ok"),
    ]  # fmt: skip


def test_a_channel_is_shared_by_address_and_tls_and_by_nothing_less(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    certificate, key = authority.sign("safer")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with model_server(credentials=credentials) as (_, address):
        channels = Channels()
        trusted, strange = (at(address, tls=UpstreamTls(ca=signer.ca)) for signer in (authority, other))
        assert channels.send(trusted, sending()) == [b"x"]
        assert channels.send(strange, sending(seconds=1.0)) is None  # not over the connection that is there already
        assert channels.send(at(address), sending(seconds=1.0)) is None
        assert channels.send(trusted, sending()) == [b"x"]

        async def aio() -> list[Any]:
            channels = AioChannels()
            outcomes = [
                await channels.send(target, sending(seconds=2.0)) for target in (trusted, strange, at(address), trusted)
            ]
            await channels.close()
            return outcomes

        assert asyncio.run(aio()) == [[b"x"], None, None, [b"x"]]


def test_many_calls_of_a_loop_share_one_connection() -> None:
    with model_server() as (model, address):

        async def several() -> None:
            for _ in range(5):
                assert await aio_channels().send(at(address), sending()) == [b"x"]

        asyncio.run(several())
        asyncio.run(several())
    assert len(set(model.peers)) <= 2  # one of each loop, or grpcio lets them share it


def test_channels_of_loops_that_have_ended_are_let_go() -> None:
    async def once() -> AioChannels:
        return aio_channels()

    several = [weakref.ref(asyncio.run(once())) for _ in range(3)]
    gc.collect()
    assert [reference() is None for reference in several] == [True, True, False]


@pytest.mark.parametrize("limit", [6, 5])
def test_a_response_that_is_larger_than_may_be_kept_counts_as_failed(limit: int) -> None:
    with model_server() as (_, address):
        expected = [b"x0", b"x1", b"x2"] if limit == 6 else None
        assert Channels().send(at(address), sending(method=DOWN, limit=limit)) == expected
        budget = MemoryBudget(limit)

        async def aio() -> Any:
            channels = AioChannels(budget)
            try:
                return await channels.send(at(address), sending(method=DOWN))
            finally:
                await channels.close()

        assert asyncio.run(aio()) == expected
        assert budget.remaining == limit


@pytest.mark.parametrize("metadata", [(("Bad Key", "x"),), (("a", "\n"),), (("a-bin", "text"),), (("a", 5),)])
def test_metadata_that_cannot_be_sent_makes_the_call_fail_and_nothing_else(metadata: Any) -> None:
    with model_server() as (_, address):
        assert Channels().send(at(address), sending(metadata=metadata)) is None

        async def aio() -> Any:
            return await aio_channels().send(at(address), sending(metadata=metadata))

        assert asyncio.run(aio()) is None


def test_nobody_there_and_no_time_left_are_failures() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = at(f"127.0.0.1:{probe.getsockname()[1]}")
        assert Channels().send(nobody, sending(seconds=0.5)) is None
        assert Channels().send(nobody, sending(seconds=0.0)) is None
