"""Claims about opinions that are watched: spans, rules, reloads, workers, keys, and a log without payloads."""

from __future__ import annotations

import base64
import json
import logging
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.certificates import Authority
from benchmarks.harness.judge_server import judge_server
from benchmarks.harness.openai_server import OpenAIServer, serving
from benchmarks.harness.parts import at_once, free_port
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.command import tocsin as command
from tests.middleware.opinions.served import PATIENCE, RATING, guarded, opinion_of

import tocsin
from tocsin.configuration.config import Config
from tocsin.judgement.guard import Guard
from tocsin.judgement.sink import Sinks
from tocsin.opinions.asking import DrawnCall
from tocsin.opinions.models import OpinionJudge, opinion_models
from tocsin.testing.guards import running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def rating_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A promise of 10% for ratings that are uniform from 0 to 1."""
    folder = tmp_path_factory.mktemp("promise")
    table = folder / "scores.csv"
    table.write_text("rating\n" + "".join(f"{score:.6f}\n" for score in np.linspace(0, 1, 500)))
    command("promise", table, "--score", "rating", "--alpha", "0.1", "--share", "1.0", "-o", folder / "rating.tocsin")
    return folder / "rating.tocsin"


def content(judge: str, bundle: Path | None = None, **second: Any) -> dict[str, Any]:
    rating = {"kind": "rating"} if bundle is None else {"kind": "rating", "bundle": str(bundle)}
    settings = {
        "judge": {"url": judge, "model": "judge"}, "opinions": {"rating": rating}, "share": 1.0,
        "calls_per_minute": 1_000_000, **second,
    }  # fmt: skip
    return {
        "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "admin": None, "drain_delay": "0s", "mode": "annotate",
        "scoring_budget": "60s", "models": {"m": {"protocol": "openai", "second_opinion": settings}},
    }  # fmt: skip


def say(target: str, text: str, **headers: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"http://{target}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200


def test_an_opinion_is_a_span_with_the_event_of_the_conventions_in_the_callers_trace(rating_bundle: Path) -> None:
    exporter = InMemorySpanExporter()
    with judge_server(opinion_of) as judge, serving(OpenAIServer().app()) as upstream:
        settings = {**content(judge.url, rating_bundle), "upstream": upstream.removeprefix("http://")}
        config = Config(**settings)
        guard = Guard.open(config)
        tocsin.export_spans(guard, SimpleSpanProcessor(exporter), share=1.0)
        with running(config, guard) as served:
            say(served.target, "u=0.9", traceparent=f"00-{TRACE}-{'2' * 16}-01")
            until(lambda: served.metric("tocsin_second_opinions_total", severity="critical") == 1, PATIENCE)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST /v1/chat/completions", "POST /tocsin/opinion"}
    opinion = spans["POST /tocsin/opinion"]
    assert f"{opinion.context.trace_id:032x}" == TRACE and opinion.parent.span_id == 0x2222222222222222
    (event,) = opinion.events
    assert event.name == "gen_ai.evaluation.result"
    result = dict(event.attributes or {})
    assert result["gen_ai.evaluation.name"] == "rating"
    assert result["gen_ai.evaluation.score.value"] == pytest.approx(4 * 0.901 / 1.002, rel=1e-5)
    assert result["gen_ai.evaluation.score.label"] == "critical"
    route = dict(spans["POST /v1/chat/completions"].attributes or {})
    assert (route["http.request.method"], route["http.route"]) == ("POST", "/v1/chat/completions")
    assert not [name for name in route if name.startswith("rpc.")]


def test_alarms_of_opinions_become_events_and_evidence_finds_a_broken_promise(
    tmp_path: Path, rating_bundle: Path
) -> None:
    events = tmp_path / "events.jsonl"
    with judge_server(opinion_of) as judge, serving(OpenAIServer().app()) as upstream:
        settings = {**content(judge.url, rating_bundle), "upstream": upstream.removeprefix("http://")}
        with running(Config(**settings, events={"to": [{"file": events}]})) as served:
            for _ in range(20):
                say(served.target, "u=0.9")
            until(lambda: served.metric("tocsin_alarms_total", model="m:rating") == 20, PATIENCE)
            assert served.metric("tocsin_promise_log_evalue", model="m:rating", severity="critical") > 4.6
    alarms = [json.loads(line) for line in events.read_text().splitlines()]
    assert {alarm["data"].get("model") for alarm in alarms} == {"m:rating"}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_opinions_event_carries_the_messages_that_it_is_about(
    tmp_path: Path, rating_bundle: Path, is_streamed: bool
) -> None:
    events = tmp_path / "events.jsonl"
    with judge_server(opinion_of) as judge, serving(OpenAIServer().app()) as upstream:
        settings = {**content(judge.url, rating_bundle), "upstream": upstream.removeprefix("http://")}
        with running(Config(**settings, events={"to": [{"file": events}], "payload": "both"})) as served:
            body = {"model": "m", "messages": [{"role": "user", "content": "u=0.9"}], "stream": is_streamed}
            httpx.post(f"http://{served.target}/v1/chat/completions", json=body, timeout=PATIENCE)
            until(lambda: served.metric("tocsin_alarms_total", model="m:rating") == 1, PATIENCE)
    (alarm,) = [json.loads(line) for line in events.read_text().splitlines()]
    request, response = (base64.b64decode(alarm["data"][side]) for side in ("request", "response"))
    assert b"u=0.9" in request and b'"choices"' in response


def test_opinions_of_messages_that_are_no_json_are_judged_as_well(rating_bundle: Path) -> None:
    config = Config(**content("http://127.0.0.1:9/v1", rating_bundle))
    judge = OpinionJudge(config, opinion_models(config), Sinks())
    about = DrawnCall("/a.B/C", b"\n\x01\xff", [b"\x00\xfe"], "", "", "", "", "share", 0.0)
    assert [judge.judge("m:rating", score, about, 0) for score in (0.1, 3.9)] == ["none", "critical"]


def test_rules_watch_an_opinion_as_a_model(tmp_path: Path, rating_bundle: Path) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_text(yaml.safe_dump(content("http://127.0.0.1:9/v1", rating_bundle)))
    rules = command("rules", "-c", path).stdout
    assert "TocsinPromiseBroken" in rules
    assert command("config", "check", path).returncode == 0


def test_a_reload_changes_what_is_asked_and_keeps_what_was_counted(tmp_path: Path, rating_bundle: Path) -> None:
    path = tmp_path / "tocsin.yaml"
    with judge_server(opinion_of) as judge, serving(OpenAIServer().app()) as upstream:

        def write(bundle: Path | None, **second: Any) -> Config:
            settings = {**content(judge.url, bundle, **second), "upstream": upstream.removeprefix("http://")}
            path.write_text(yaml.safe_dump(settings))
            return Config.load(path)

        with running(write(None), path=path) as served:
            say(served.target, "u=0.9")
            until(lambda: served.metric("tocsin_second_opinions_total", severity="unpromised") == 1, PATIENCE)
            write(rating_bundle)
            served.call(served.sidecar.reloader.reload())
            say(served.target, "u=0.9")
            until(lambda: served.metric("tocsin_second_opinions_total", severity="critical") == 1, PATIENCE)
            assert served.metric("tocsin_second_opinions_total", severity="unpromised") == 1
            assert served.metric("tocsin_alarms_total", model="m:rating") == 1
            write(rating_bundle, sampling_key="absent.key")
            with pytest.raises(Exception, match=r"absent\.key: cannot be read"):
                served.call(served.sidecar.reloader.reload())
            say(served.target, "u=0.1")
            until(lambda: served.metric("tocsin_second_opinions_total", severity="none") == 1, PATIENCE)
            settings = {**yaml.safe_load(path.read_text()), "models": {"m": {"protocol": "openai"}}}
            path.write_text(yaml.safe_dump(settings))
            served.call(served.sidecar.reloader.reload())
            say(served.target, "u=0.1")
            assert len(judge.prompts) == 3


@pytest.mark.long
def test_workers_ask_together_and_their_counts_are_one(tmp_path: Path, rating_bundle: Path) -> None:
    path = tmp_path / "tocsin.yaml"
    with judge_server(opinion_of) as judge, serving(OpenAIServer().app()) as upstream:
        listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        settings = {**content(judge.url, rating_bundle), "listen": listen, "metrics": metrics, "workers": 2}
        path.write_text(yaml.safe_dump({**settings, "upstream": upstream.removeprefix("http://")}))
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tocsin", "serve", "-c", str(path)], stderr=log, env=at_once()
            )

        def counted(pattern: str) -> float:
            text = urllib.request.urlopen(f"http://{metrics}/metrics").read().decode()
            return sum(float(value) for value in re.findall(f"^{pattern} (\\S+)$", text, re.MULTILINE))

        try:
            until(lambda: urllib.request.urlopen(f"http://{metrics}/readyz").status == 200, PATIENCE)
            for _ in range(20):
                say(listen, "u=0.1")
            given = 'tocsin_second_opinions_total{drawn="share",model="m",opinion="rating",severity="none"}'
            until(lambda: counted(re.escape(given)) == 20, PATIENCE)
            until(lambda: counted(r'tocsin_promised_total\{model="m:rating"\}') == 20, PATIENCE)
            assert len(judge.prompts) == 20
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
        assert code == 0, (tmp_path / "log").read_text()


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key\n")
    with judge_server(opinion_of) as judge:
        with guarded(judge, judge={"url": judge.url, "model": "judge", "key_env": "JUDGE_KEY"}) as served:
            served.say("safe")
            until(lambda: served.given() == 1, PATIENCE)
    assert judge.keys == ["Bearer secret-key"]


def test_neither_texts_nor_what_a_judge_says_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with judge_server(lambda prompt: "canary of the judge") as judge:
        opinions = {**RATING, "checks": {"kind": "checklist", "questions": ["Is it true?"]}}
        with guarded(judge, opinions=opinions) as served:
            served.say("canary of the question")
            until(lambda: served.lost(reason="unreadable") == 2, PATIENCE)
            served.say("")
            until(lambda: served.lost(reason="no_text") == 2, PATIENCE)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("tocsin")]
    assert any("no second opinion" in line for line in ours)
    assert not any("canary" in line or "w0 w1" in line for line in ours)


def test_a_judge_is_asked_over_tls_if_its_certificate_is_of_the_named_authority(tmp_path: Path) -> None:
    authority, strangers = Authority(tmp_path / "ca"), Authority(tmp_path / "strangers", "strangers")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.sign("judge"))
    with judge_server(opinion_of, tls) as judge:
        with guarded(judge, judge={"url": judge.url, "model": "judge", "ca": authority.ca}) as served:
            served.say("safe")
            until(lambda: served.given() == 1, PATIENCE)
        with guarded(judge, judge={"url": judge.url, "model": "judge", "ca": strangers.ca}) as served:
            served.say("safe")
            until(lambda: served.lost(reason="unreachable") == 1, PATIENCE)
    assert len(judge.prompts) == 1


def test_a_judge_that_sends_byte_by_byte_has_no_more_time_than_another() -> None:
    """The limit is for the whole answer: bytes that keep coming do not renew it."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not ended.wait(0.02):
                connection.sendall(b" ")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    with guarded(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout="200ms") as served:
        served.say("safe")
        until(lambda: served.lost(reason="timeout") == 1, PATIENCE)
    ended.set()
    listening.close()
    thread.join(PATIENCE)
