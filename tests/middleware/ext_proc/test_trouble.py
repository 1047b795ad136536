"""Claim: whoever fails behind Envoy, callers get whole responses or a status, and nothing is kept for ever."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.certificates import Authority
from benchmarks.harness.envoy import attached_envoy
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import STREAM_INFER, running, streamed
from tests.middleware.ext_proc.served import ANSWERS, Served, configuration, eventually, served, verdicts

from tocsin.configuration.listener import TlsConfig

pytestmark = pytest.mark.long

DUPLEX, BUFFERED = {"response_body_mode": "FULL_DUPLEX_STREAMED"}, {"response_body_mode": "BUFFERED"}


def slow_down(here: Served) -> threading.Event:
    """Judge in a thread that waits for an event first."""
    guard, go_on = here.processor.sidecar.relay.context.guard, threading.Event()
    judge = guard.judge

    def waits(*given: Any) -> Any:
        go_on.wait(60)
        return judge(*given)

    guard.is_blocking = True
    guard.judge = waits  # type: ignore[method-assign, assignment]
    return go_on


def settles(here: Served) -> bool:
    """Whether, within the time limit, no exchange is open and no memory is charged."""
    return eventually(
        lambda: here.metric("tocsin_ext_proc_streams") == 0 and here.metric("tocsin_relay_kept_bytes") == 0
    )


@pytest.mark.parametrize("fail", ["open", "closed"])
@pytest.mark.parametrize(
    ("mode", "modes"),
    [("annotate", {}), ("enforce", DUPLEX), ("enforce", BUFFERED)],
    ids=["annotate", "duplex", "buffered"],
)
def test_a_verdict_that_is_late_is_not_waited_for(
    mode: str, modes: dict[str, str], fail: str, bundle: Path, tmp_path: Path
) -> None:
    with served(bundle, tmp_path, mode, {"modes": modes}, fail=fail) as here:
        here.processor.sidecar.relay.context.guard._budgets = dict.fromkeys(
            here.processor.sidecar.relay.context.guard._budgets, 0.2
        )
        go_on = slow_down(here)
        response, call = here.ask(b"safe")
        responses, stream = here.stream(b"safe", b"safe")
        go_on.set()
        if mode == "enforce" and fail == "closed":
            assert (response, call.code()) == (None, grpc.StatusCode.UNAVAILABLE)
            assert (responses, stream.code()) == ([], grpc.StatusCode.UNAVAILABLE)
        else:
            assert (response, call.code()) == (ANSWERS[b"safe"], grpc.StatusCode.OK)
            assert json.loads(verdicts(call)[0])["unscored"] == "late"
            assert responses == [streamed(ANSWERS[b"safe"])] * 2 and stream.code() is grpc.StatusCode.OK
        assert settles(here)
        assert eventually(lambda: here.metric('tocsin_unscored_total{model="digits",reason="late"}') >= 2)


@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED], ids=["duplex", "buffered"])
@pytest.mark.parametrize("allows", [True, False], ids=["allow", "refuse"])
def test_a_processor_that_dies_leaves_a_status_and_no_wait(
    allows: bool, modes: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    envoy = {"modes": modes, "settings": {"failure_mode_allow": allows}}
    with served(bundle, tmp_path, "enforce", envoy) as here:
        go_on = slow_down(here)
        results: list[Any] = []
        asking = threading.Thread(target=lambda: results.append(here.ask(b"safe")))
        asking.start()
        processor = here.processor.sidecar.processor
        assert processor is not None
        assert eventually(lambda: any(connection.streams for connection in processor.connections))  # type: ignore[attr-defined]
        assert eventually(lambda: processor.batcher._in_flight)
        for connection in list(processor.connections):
            here.processor.loop.call_soon_threadsafe(connection.cut_off, "memory")
        asking.join(60)
        assert not asking.is_alive()
        ((response, call),) = results
        if allows and modes is BUFFERED:
            assert response == ANSWERS[b"safe"]
        elif not allows:
            assert response is None and call.code() is not grpc.StatusCode.OK
        go_on.set()
        assert here.ask(b"safe")[0] == ANSWERS[b"safe"]  # on a new connection
        assert here.metric("tocsin_ext_proc_abandoned_total") == 1
        assert settles(here)


def test_callers_that_leave_and_upstreams_that_break_off_leave_nothing_behind(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "enforce") as here:
        for _ in range(5):
            waiting = threading.Event()

            def requests(waiting: threading.Event = waiting) -> Any:
                yield b"safe"
                waiting.wait(60)

            call = here.channel.stream_stream(STREAM_INFER)(requests(), timeout=60)
            assert next(call) == streamed(ANSWERS[b"safe"])
            call.cancel()
            waiting.set()
        assert settles(here)
        response, call = here.ask(b"safe", ("sleep", "5"), seconds=0.3)
        assert response is None and call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert settles(here)


def test_draining_loses_no_message_of_a_stream(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address):
        model.answers = dict(ANSWERS)
        with running(configuration(bundle, address, "enforce", drain="20s")) as processor:
            with attached_envoy(tmp_path / "envoy", address, processor) as envoy:
                with grpc.insecure_channel(envoy.target) as channel:
                    go_on = threading.Event()

                    def requests() -> Any:
                        yield b"safe"
                        go_on.wait(60)
                        for _ in range(50):
                            yield b"safe"

                    call = channel.stream_stream(STREAM_INFER)(requests(), timeout=40)
                    assert next(call) == streamed(ANSWERS[b"safe"])
                    server = processor.sidecar.processor
                    assert server is not None
                    draining = asyncio.run_coroutine_threadsafe(server.drain(), processor.loop)
                    assert eventually(lambda: envoy.stat("cluster.tocsin.upstream_cx_close_notify") >= 0)
                    time.sleep(0.3)
                    assert not draining.done()
                    go_on.set()
                    assert list(call) == [streamed(ANSWERS[b"safe"])] * 50
                    assert call.code() is grpc.StatusCode.OK and len(verdicts(call)) == 1
                    draining.result(60)
                    with pytest.raises(
                        grpc.RpcError
                    ):  # without a processor, duplex fails whatever failure_mode_allow says
                        channel.unary_unary("/test.Model/Unary")(b"later", timeout=60)


def test_tls_with_certificates_on_both_sides(bundle: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    certificate, key = authority.sign("processor")
    envoys, envoys_key = authority.sign("envoy")
    tls = TlsConfig(certificate=certificate, key=key, client_ca=authority.ca)
    with model_server() as (model, address):
        model.answers = dict(ANSWERS)
        with running(configuration(bundle, address, "annotate", ext_proc_tls=tls)) as processor:

            def filled(cluster: dict[str, Any], *, shows: bool) -> dict[str, Any]:
                """What attach prints, with the files of this machine."""
                context = cluster["transport_socket"]["typed_config"]["common_tls_context"]
                context["validation_context"]["trusted_ca"]["filename"] = str(authority.ca)
                (shown,) = context["tls_certificates"]
                shown["certificate_chain"]["filename"], shown["private_key"]["filename"] = str(envoys), str(envoys_key)
                if not shows:
                    del context["tls_certificates"]
                return cluster

            for shows in (True, False):
                change = {"cluster": lambda cluster, shows=shows: filled(cluster, shows=shows)}
                folder = tmp_path / f"envoy-{shows}"
                with attached_envoy(
                    folder, address, processor, settings={"failure_mode_allow": False}, **change
                ) as envoy:
                    with grpc.insecure_channel(envoy.target) as channel:
                        here = Served(channel, model, processor, envoy)
                        response, call = here.ask(b"safe")
                        assert (response == ANSWERS[b"safe"]) == shows
                        assert (len(verdicts(call)) == 1) == shows
