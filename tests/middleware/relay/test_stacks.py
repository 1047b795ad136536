"""Claim: with Envoy or nginx before or behind it, the relay changes nothing that callers observe."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.dataplane.hops import Hop, envoy, missing, start_envoy, start_nginx
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, far_away, inference, running, safe_traffic, settings
from tests.middleware.relay.test_identical import SCENARIOS, UNLIMITED

from tocsin.grpc_wire.deframer import framed
from tocsin.verdict import METADATA_KEY

MODES = ["annotate", "enforce"]
THEIR_OWN = {"date", "server", "x-request-id", "x-envoy-upstream-service-time", "x-forwarded-proto"}
LEFT_OUT = {"guarded, 20 MiB", "unary, 20 MiB both ways"}  # minutes through nginx's buffers


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    if lacking := missing():
        pytest.fail(f"this needs programs that are not installed: {lacking}")
    assert envoy() is not None and shutil.which("curl")


@contextmanager
def proxy(kind: str, folder: Path, upstream: str) -> Iterator[str]:
    port = int(upstream.rpartition(":")[2])
    hop: Hop = start_envoy(folder, port) if kind == "envoy" else start_nginx(folder, port)
    try:
        yield f"127.0.0.1:{hop.port}"
    finally:
        assert hop.process is not None
        hop.process.terminate()
        hop.process.wait()


def observed(scenario: Any, target: str) -> Any:
    """What a caller observes, without the metadata that the proxy adds."""
    with grpc.insecure_channel(target, options=UNLIMITED) as channel:
        try:
            observables = scenario(channel)
        except grpc.RpcError as error:
            return {"raised": error.code(), "details": error.details()}  # type: ignore[attr-defined]
    for part in ("initial", "trailing"):
        if part in observables:
            excluded = (*THEIR_OWN, METADATA_KEY)
            observables[part] = sorted(str(pair) for pair in observables[part] if pair[0] not in excluded)
    return observables


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["envoy", "nginx"])
def test_a_proxy_before_or_behind_sees_no_difference(bundle: Path, tmp_path: Path, kind: str, mode: str) -> None:
    with ExitStack() as stack:
        model, server = stack.enter_context(model_server())
        safe = safe_traffic(4, seed=3)
        model.answers = {
            b"one": inference(safe, slice(0, 1)),
            b"three": inference(safe, slice(0, 3)),
            b"far": inference(far_away(1), slice(0, 1)),
        }
        folders = [tmp_path / name for name in ("alone", "before", "behind")]
        for folder in folders:
            folder.mkdir()
        alone = stack.enter_context(proxy(kind, folders[0], server))
        relay = stack.enter_context(running(settings(server, bundle, mode=mode)))
        before = stack.enter_context(proxy(kind, folders[1], relay.target))
        behind = stack.enter_context(running(settings(alone, bundle, mode=mode))).target
        for name, scenario in SCENARIOS.items():
            if name in LEFT_OUT:
                continue
            expected = observed(scenario, alone)
            assert observed(scenario, before) == expected, f"{kind} before the relay: {name}"
            assert observed(scenario, behind) == expected, f"{kind} behind the relay: {name}"


@pytest.mark.parametrize("mode", ["observe", *MODES])
def test_curl_and_h2load_agree(bundle: Path, tmp_path: Path, mode: str) -> None:
    answer = inference(safe_traffic(1), slice(0, 1))
    request = tmp_path / "request.bin"
    request.write_bytes(framed(b"ask"))
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    with model_server() as (model, server), running(settings(server, bundle, mode=mode)) as relay:
        model.answers = {b"ask": answer}
        url = f"http://{relay.target}{INFER}"
        out = tmp_path / "out.bin"
        curl = ["curl", "-sS", "--http2-prior-knowledge", "--data-binary", f"@{request}", "-o", str(out), *headers, url]
        assert subprocess.run(curl, capture_output=True, timeout=60).stderr == b""
        assert out.read_bytes() == framed(answer)
        load = ["h2load", "-n", "1500", "-c", "5", "-m", "20", "-d", str(request), *headers, url]
        said = subprocess.run(load, capture_output=True, text=True, timeout=60).stdout
        assert "1500 succeeded, 0 failed" in said, said
