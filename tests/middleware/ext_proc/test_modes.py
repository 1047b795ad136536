"""Claim: every mode of the filter that can serve does; every other is counted, or refused, with the line to change."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.parts import INFER, inference, streamed
from tests.middleware.ext_proc.served import ANSWERS, SAFE, eventually, served, verdicts

pytestmark = pytest.mark.long

JUDGED = f'tocsin_responses_total{{decision="pass",method="{INFER}",model="digits",version="v1"}}'
BLOCK = {"on_alarm": {"critical": "block"}}
DUPLEX, BUFFERED = {"response_body_mode": "FULL_DUPLEX_STREAMED"}, {"response_body_mode": "BUFFERED"}
STREAMED = {"response_body_mode": "STREAMED"}


def test_observing_takes_no_part_and_leaves_no_stream_open(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "observe") as here:
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda _: here.ask(), range(400)))
        assert all(response == ANSWERS[b"safe"] and not verdicts(call) for response, call in results)
        assert eventually(lambda: here.metric(JUDGED) == 400)
        assert eventually(lambda: here.envoy.stat("cluster.tocsin.upstream_rq_active") == 0, 4)  # Envoy's own is 5 s
        assert here.envoy.stat("cluster.tocsin.upstream_rq_pending_overflow") == 0
        responses, call = here.stream(b"safe", b"far", b"safe")
        assert responses == [streamed(ANSWERS[name]) for name in (b"safe", b"far", b"safe")]
        assert call.code() is grpc.StatusCode.OK and not verdicts(call)
        assert eventually(lambda: here.metric("tocsin_ext_proc_streams") == 0)


@pytest.mark.parametrize("modes", [{}, DUPLEX, BUFFERED], ids=["streamed", "duplex", "buffered"])
def test_annotating_tells_the_verdict_and_changes_no_byte(modes: dict[str, str], bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "annotate", {"modes": modes}) as here:
        large = inference(SAFE, slice(0, 1)) + b"\xca\x3e\x80\x80\x20" + bytes(np.random.default_rng(1).bytes(1 << 19))
        here.model.answers[b"large"] = large  # an unknown field
        for name, answer in [(b"safe", ANSWERS[b"safe"]), (b"far", ANSWERS[b"far"]), (b"large", large)]:
            response, call = here.ask(name)
            assert (response, call.code()) == (answer, grpc.StatusCode.OK)
            (verdict,) = verdicts(call)
            if name != b"large":
                assert json.loads(verdict)["alarm"] == ("critical" if name == b"far" else None)
            assert ("b-bin", b"\0\xff\x80") in [tuple(pair) for pair in call.trailing_metadata()]
        response, call = here.ask(b"safe", ("compress", "gzip"))
        assert response == ANSWERS[b"safe"] and json.loads(verdicts(call)[0])["alarm"] is None
        response, call = here.ask(b"safe", ("fail", "INTERNAL"), ("abort", "yes"))
        assert response is None and call.code() is grpc.StatusCode.INTERNAL
        assert call.details() == "aborted: 100% ü" and not verdicts(call)


@pytest.mark.parametrize("size", [3 << 20, 12 << 20])
@pytest.mark.parametrize(("mode", "modes"), [("annotate", {}), ("enforce", DUPLEX)], ids=["annotate", "hold"])
def test_large_messages_pass_byte_for_byte(
    mode: str, modes: dict[str, str], size: int, bundle: Path, tmp_path: Path
) -> None:
    with served(bundle, tmp_path, mode, {"modes": modes}) as here:
        here.model.answers[b"large"] = bytes(np.random.default_rng(2).bytes(size))
        response, call = here.ask(b"large", seconds=60)
        assert response == here.model.answers[b"large"] and call.code() is grpc.StatusCode.OK
        assert "undecodable" in verdicts(call)[0]
        assert eventually(lambda: here.metric("tocsin_relay_kept_bytes") == 0)


@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED], ids=["duplex", "buffered"])
def test_what_is_blocked_is_a_clean_status(modes: dict[str, str], bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "enforce", {"modes": modes}, model=BLOCK) as here:
        response, call = here.ask(b"safe")
        assert response == ANSWERS[b"safe"] and json.loads(verdicts(call)[0])["action"] == "pass"
        response, call = here.ask(b"far")
        assert response is None and call.code() is grpc.StatusCode.PERMISSION_DENIED
        assert call.details() == "the monitor blocks this answer" and json.loads(verdicts(call)[0])["action"] == "block"
        assert dict(call.trailing_metadata())["grpc-status-details-bin"].startswith(b"\x08\x07")
        responses, call = here.stream(b"safe", b"far", b"safe")
        sent = [streamed(ANSWERS[b"safe"])] if modes is DUPLEX else []  # a buffered stream goes out whole or not at all
        assert (responses, call.code()) == (sent, grpc.StatusCode.PERMISSION_DENIED)
        assert json.loads(verdicts(call)[0])["action"] == "block"


@pytest.mark.parametrize("modes", [DUPLEX, BUFFERED], ids=["duplex", "buffered"])
def test_what_is_abstained_from_is_another_answer(modes: dict[str, str], bundle: Path, tmp_path: Path) -> None:
    abstain = {"on_alarm": {"critical": "abstain"}, "abstain": {"response": {"model_name": "nobody"}}}
    with served(bundle, tmp_path, "enforce", {"modes": modes}, model=abstain) as here:
        response, call = here.ask(b"far")
        assert (response, call.code()) == (b"\x0a\x06nobody", grpc.StatusCode.OK)
        assert json.loads(verdicts(call)[0])["action"] == "abstain"
        assert "seen-deadline" not in dict(call.trailing_metadata())  # nothing of what is withheld


def test_a_sample_is_blocked_and_the_rest_is_flagged(bundle: Path, tmp_path: Path) -> None:
    with served(
        bundle, tmp_path, "enforce", model={"on_alarm": {"critical": {"action": "block", "share": 0.5}}}
    ) as here:
        codes = []
        for number in range(12):
            here.model.answers[b"far%d" % number] = ANSWERS[b"far"] + b"\xca\x3e\x01%d" % (number % 10)
            response, call = here.ask(b"far%d" % number)
            codes.append(call.code())
            assert json.loads(verdicts(call)[0])["action"] == ("flag" if response is not None else "block")
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED}


def test_a_verdict_that_somebody_behind_wrote_is_removed_or_taken(bundle: Path, tmp_path: Path) -> None:
    class Behind:
        def __init__(self, here: Any) -> None:
            here.model._begin, self.begin = self, here.model._begin

        def __call__(self, context: Any) -> dict[str, str]:
            wishes: dict[str, str] = self.begin(context)
            context.set_trailing_metadata((("tocsin-verdict", '{"model":"digits","p":[0.5],"alarm":null}'),))
            return wishes

    for accepts in (False, True):
        for mode in ("observe", "annotate", "enforce"):
            envoy = {"settings": {"observability_mode": False}}
            folder = tmp_path / f"{mode}-{accepts}"
            folder.mkdir()
            with served(bundle, folder, mode, envoy, accept_verdicts=accepts) as here:
                Behind(here)
                _, call = here.ask(b"safe")
                pvalues = [json.loads(verdict)["p"] for verdict in verdicts(call)]
                if mode == "observe":
                    assert pvalues == []
                elif mode == "annotate":
                    assert len(pvalues) == 1 and (pvalues == [[0.5]]) == accepts
                else:
                    assert len(pvalues) == 1


def test_sessions_and_paths_come_as_attributes_without_the_requests_headers(bundle: Path, tmp_path: Path) -> None:
    model = {"group": "metadata.x-tenant", "session": "metadata.x-session"}
    with served(bundle, tmp_path, "annotate", model=model) as here:
        config = (tmp_path / "envoy" / "envoy.yaml").read_text()
        assert "request_header_mode: SKIP" in config and "request.headers['x-session']" in config
        opened: list[Any] = []
        guard = here.processor.sidecar.relay.context.guard
        open_call = guard.call
        guard.call = lambda *given: opened.append(given) or open_call(*given)  # type: ignore[method-assign]
        here.ask(b"safe", ("x-session", "s-1"), ("x-tenant", "me"), ("x-other", "no"))
        ((method, metadata, _, _),) = opened
        assert method == INFER and dict(metadata) == {"x-session": "s-1", "x-tenant": "me"}


def test_body_mode_grpc_is_refused(bundle: Path, tmp_path: Path) -> None:
    settings = {"modes": {"response_body_mode": "GRPC"}, "settings": {"failure_mode_allow": False}}
    with served(bundle, tmp_path, "annotate", settings) as here:
        response, call = here.ask(b"safe")
        assert response is None and call.code() is grpc.StatusCode.UNKNOWN  # Envoy's 500
        assert here.misfits("grpc_body") == 1


@pytest.mark.parametrize(
    ("mode", "envoy", "reason"),
    [
        ("annotate", {"modes": {"response_body_mode": "BUFFERED_PARTIAL"}}, "buffered_partial"),
        ("annotate", {"settings": {"observability_mode": True}}, "observability"),
        ("enforce", {"settings": {"observability_mode": True}, "modes": STREAMED}, "observability"),
        ("enforce", {"modes": {"response_body_mode": "STREAMED"}}, "not_held"),
        ("annotate", {"modes": {"response_body_mode": "NONE"}}, "no_body"),
        ("observe", {"modes": {"response_body_mode": "NONE"}}, "no_body"),
        ("observe", {"modes": {"response_body_mode": "BUFFERED"}}, "no_body"),
        ("annotate", {"modes": {"response_trailer_mode": "SKIP"}}, "no_trailers"),
        ("annotate", {"settings": {"response_attributes": []}}, "no_path"),
    ],
)  # fmt: skip
def test_what_does_not_fit_passes_and_is_counted(
    mode: str, envoy: dict[str, Any], reason: str, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(bundle, tmp_path, mode, envoy) as here:
        response, call = here.ask(b"safe")
        assert response == ANSWERS[b"safe"] and call.code() is grpc.StatusCode.OK
        assert eventually(lambda: here.misfits(reason) == 1)
        unjudged = here.metric('tocsin_unscored_total{model="digits",reason="not_sent"}')
        assert unjudged == (1 if reason == "no_body" else 0)
        assert "Envoy's ext_proc filter" in caplog.text


def test_what_cannot_be_held_is_refused_where_it_must_not_pass(bundle: Path, tmp_path: Path) -> None:
    envoy = {"modes": {"response_body_mode": "STREAMED"}}
    with served(bundle, tmp_path, "enforce", envoy, fail="closed") as here:
        response, call = here.ask(b"safe")
        assert response is None and call.code() is grpc.StatusCode.UNAVAILABLE
        assert here.misfits("not_held") == 1


def test_what_no_model_guards_is_refused_where_that_is_configured(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "enforce", unguarded="refuse", unguarded_allow=["/test.Model/Down"]) as here:
        with pytest.raises(grpc.RpcError) as refused:
            here.channel.unary_unary("/test.Model/Unary")(b"x", timeout=60)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert here.model.metadata == []  # refused before the upstream heard of it
        call = here.channel.unary_stream("/test.Model/Down")(b"q", timeout=60)
        assert list(call) == [b"q0", b"q1", b"q2"]
        assert here.ask()[0] == ANSWERS[b"safe"]


def test_the_verdict_does_not_wait_for_a_stream_that_goes_on(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "enforce") as here:
        requests = iter_slowly([b"safe", b"safe"])
        call = here.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(requests, timeout=60)
        assert next(call) == streamed(ANSWERS[b"safe"])
        requests.go_on = True
        assert list(call) == [streamed(ANSWERS[b"safe"])]


class iter_slowly:
    """Two requests; the second is sent once `go_on` is set."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests
        self._given = 0
        self.go_on = False

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> bytes:
        while self._given and not self.go_on:
            time.sleep(0.02)
        if self._given == len(self._requests):
            raise StopIteration
        self._given += 1
        return self._requests[self._given - 1]


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_verdicts_reach_access_logs(mode: str, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = (file, "%DYNAMIC_METADATA(tocsin:model)% %DYNAMIC_METADATA(tocsin:action)%\n")
    model = BLOCK if mode == "enforce" else {}
    with served(bundle, tmp_path, mode, {"access_log": log}, ext_proc_metadata="tocsin", model=model) as here:
        here.ask(b"safe")
        here.ask(b"far")
        if mode == "enforce":
            here.stream(b"safe", b"far")
    lines = file.read_text().replace('"', "").splitlines()  # written when Envoy ends, at the latest
    acted = "block" if mode == "enforce" else "flag"
    assert lines == ["digits pass", f"digits {acted}", "digits block"][: 3 if mode == "enforce" else 2]
