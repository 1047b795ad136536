"""Claims about second opinions: a judge is asked of the configured share, within its budget, off the path."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.chat import tokens_bundle
from benchmarks.harness.judge_server import Reply, judge_server
from scipy.stats import betabinom, binom
from tests.command import tocsin
from tests.middleware.opinions.served import PATIENCE, RATING, guarded, opinion_of

from tocsin.configuration.config import Config
from tocsin.judgement.guard import Guard
from tocsin.judgement.lottery import Lottery, Sampler


def promised(path: Path, scores: np.ndarray, alpha: float = 0.1) -> Path:
    """A bundle that `tocsin promise` makes of scores."""
    table = path.with_suffix(".csv")
    table.write_text("rating\n" + "".join(f"{score:.6f}\n" for score in scores))
    done = tocsin("promise", table, "--score", "rating", "--alpha", alpha, "--share", 1.0, "--out", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_a_judge_is_asked_after_the_response_about_its_question_and_its_answer() -> None:
    with judge_server(opinion_of) as judge, guarded(judge) as served:
        served.say("u=0.5")
        served.say("u=0.5", stream=True)
        until(lambda: served.given() == 2, PATIENCE)
        assert served.given(drawn="share", severity="unpromised", opinion="rating") == 2
        assert served.guard.metric("tocsin_judge_calls_total", model="m") == 2
        assert not served.lost()
    assert judge.prompts[0] == judge.prompts[1]
    assert "Question: u=0.5\nAnswer:  w0 w1 w2 w3 w4 w5\n" in judge.prompts[0]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(500, "refused"), ({"maybe": 0.99}, "unreadable"), ("four", "unreadable"), (b"<html>", "unreadable")],
)
def test_what_a_judge_does_not_tell_is_lost_by_its_reason(reply: Reply, reason: str) -> None:
    with judge_server(lambda prompt: reply) as judge, guarded(judge) as served:
        served.say("safe")
        until(lambda: served.lost(reason=reason, opinion="rating") == 1, PATIENCE)
        assert not served.given()


def test_a_judge_that_is_not_there_is_lost_as_unreachable() -> None:
    with guarded("http://127.0.0.1:9/v1") as served:
        served.say("safe")
        until(lambda: served.lost(reason="unreachable") == 1, PATIENCE)


def test_responses_do_not_wait_for_a_judge_that_hangs_and_no_more_than_the_queue_waits() -> None:
    """Every response is there while every call of the judge still hangs; what the queue cannot hold is lost."""
    with judge_server(lambda prompt: None) as judge:
        with guarded(judge, concurrent=2, queue=5, timeout="1h") as served:
            for _ in range(2):
                served.say("safe")
            until(lambda: len(judge.prompts) == 2, PATIENCE)
            for _ in range(18):
                served.say("safe")
            assert served.lost(reason="queue_full") == 13
            assert served.guard.metric("tocsin_second_opinions_waiting", model="m") == 5
            stopping = served.guard.sidecar
        # Draining has ended here, though the judge may take an hour.
        assert stopping.opinions.facts()["opinions_lost"]["m\x1frating\x1fdraining"] == 5


def test_a_judge_that_answers_too_slowly_is_given_up() -> None:
    with judge_server(lambda prompt: None) as judge, guarded(judge, timeout="100ms") as served:
        served.say("safe")
        until(lambda: served.lost(reason="timeout") == 1, PATIENCE)


@pytest.mark.parametrize(("a_minute", "calls"), [(600, 12), (1, 5)])
def test_calls_of_the_judge_keep_to_the_budget_and_what_waits_too_long_is_lost(a_minute: int, calls: int) -> None:
    """However slow this machine is: no more calls than one, and one for each interval that has passed since."""
    began = time.monotonic()
    with judge_server(opinion_of) as judge, guarded(judge, calls_per_minute=a_minute, max_wait="10s") as served:
        for _ in range(calls):
            served.say("safe")
        until(lambda: served.given() + served.lost(reason="late") == calls, PATIENCE)
        assert 1 <= served.given() == len(judge.times)
    assert len(judge.times) <= 1 + (judge.times[-1] - began) * a_minute / 60


def test_the_share_is_drawn_by_the_trace_the_same_at_every_replica(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    traces = [f"{number:032x}" for number in range(1, 201)]
    sampler = Sampler("m", 0.2, key.read_bytes())
    expected = {f"u=0.{number:04}" for number, trace in enumerate(traces) if sampler.draws(trace)}
    for _ in range(2):
        with judge_server(opinion_of) as judge:
            with guarded(judge, share=0.2, sampling_key=key, queue=1_000) as served:
                for number, trace in enumerate(traces):
                    served.say(f"u=0.{number:04}", trace=trace)
                until(lambda: served.given() >= len(expected), PATIENCE)
            assert {match[0] for prompt in judge.prompts if (match := re.search(r"u=[0-9.]+", prompt))} == expected


@pytest.mark.parametrize("has_trace", [True, False])
def test_of_many_calls_the_share_is_drawn_that_is_configured(has_trace: bool) -> None:
    share, n = 0.03, 20_000
    sampler = Sampler("m", share, b"0123456789abcdef")
    drawn = sum(sampler.draws(f"{number:032x}" if has_trace else "") for number in range(n))
    low, high = binom.ppf([5e-5, 1 - 5e-5], n, share)
    assert low <= drawn <= high
    assert not any(Sampler("m", 0.0, b"k" * 16).draws(f"{number:032x}") for number in range(1_000))
    assert all(Sampler("m", 1.0, b"k" * 16).draws(f"{number:032x}") for number in range(1_000))


@pytest.mark.parametrize("alarmed", [True, False])
def test_only_calls_that_may_be_asked_about_keep_their_requests(tmp_path: Path, alarmed: bool) -> None:
    """Of the others, requests go on unread, as if there were no second opinion."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    sampler = Sampler("m", 0.2, key.read_bytes())
    traces = [f"{number:032x}" for number in range(1, 201)]
    with judge_server(opinion_of) as judge:
        with guarded(judge, share=0.2, sampling_key=key, alarmed=alarmed) as served:
            guard = served.guard.sidecar.relay.context.guard
            path = "/v1/chat/completions"
            headers = [{"traceparent": f"00-{trace}-{'1' * 16}-01"} for trace in traces]
            calls = [call for of_one in headers if (call := guard.call(f"POST {path}", of_one)) is not None]
            untraced = [guard.call(f"POST {path}", {}) for _ in range(20_000)]
    assert [call.wants_request for call in calls] == [alarmed or sampler.draws(trace) for trace in traces]
    assert [list(call.drawn_for) for call in calls] == [["m"] if sampler.draws(trace) else [] for trace in traces]
    low, high = binom.ppf([5e-5, 1 - 5e-5], len(untraced), 0.2)
    assert low <= sum(call is not None and bool(call.drawn_for) for call in untraced) <= high


def drawing_guard(model: dict[str, Any], method: str, **second: Any) -> Guard:
    """A guard that draws every call of a method."""
    settings = {"judge": {"url": "http://127.0.0.1:1/v1", "model": "judge"}, "opinions": RATING, **second}
    guard = Guard.open(Config(models={"m": {**model, "second_opinion": settings}}, mode="enforce"))
    guard.lottery = Lottery()
    guard.lottery.samplers = {method: [Sampler("m", 1.0, b"k" * 16)]}
    return guard


@pytest.mark.parametrize("alarmed", [True, False])
def test_a_drawn_call_is_judged_as_others_though_its_request_cannot_be_read(alarmed: bool) -> None:
    """Whether it is drawn must not decide whether a response passes. With `alarmed` all calls want their requests."""
    method = "POST /v1/chat/completions"
    call = drawing_guard({"protocol": "openai"}, method, alarmed=alarmed).call(method, {})
    assert call is not None and call.drawn_for and call.wants_request
    call.on_request_message(None, ("too_large", "more than a judge reads"))
    assert (call.fault is not None) == alarmed and call.request is None
    call.on_request_message(b"{}")
    assert call.request is None  # of two, servers differ in which they use


def test_requests_of_a_stream_are_matched_whether_the_call_is_drawn_or_not() -> None:
    method = "/inference.GRPCInferenceService/ModelStreamInfer"
    model = {"protocol": "oip", "signals": {"probs": "response.outputs.probs"}, "judge": "end"}
    for share in (0.0, 1.0):
        guard = drawing_guard(model, method)
        assert guard.lottery is not None
        guard.lottery.samplers = {method: [Sampler("m", share, b"k" * 16)]}
        call = guard.call(method, {})
        assert call is not None and call.wants_request and bool(call.drawn_for) == bool(share)
        call.on_request_message(b"a question")
        assert call.kept_requests


def test_alarmed_calls_are_asked_about_though_no_other_is(tmp_path: Path) -> None:
    bundle = tokens_bundle(tmp_path / "tokens.tocsin")
    scores = tmp_path / "scores.jsonl"
    promise = promised(tmp_path / "rating.tocsin", np.linspace(0, 1, 500))
    opinions = {"rating": {"kind": "rating", "bundle": promise}}
    with judge_server(opinion_of) as judge:
        with guarded(judge, bundle=bundle, share=0.0, alarmed=True, opinions=opinions, scores=scores) as served:
            for _ in range(10):
                served.say("safe")
            served.say("far")
            until(lambda: served.given(drawn="alarm") == 1, PATIENCE)
            assert served.given() == 1 and len(judge.prompts) == 1
            # Chosen by an alarm, it is compared with the threshold, and is no evidence about the promise.
            assert served.given(severity="critical") == 1
            assert served.guard.metric("tocsin_responses_total", model="m:rating") == 0
    row = json.loads(scores.read_text())
    assert row["alarmed"]["rating"] > 1 and "rating" not in row and row["severities"] == {"rating": "critical"}
    assert "w0" not in scores.read_text()


@pytest.mark.long
def test_false_alarms_of_an_opinion_obey_the_promised_law(tmp_path: Path) -> None:
    """Calibrated on opinions of served safe answers, the alarms on fresh ones are Beta-Binomial, at 1e-4."""
    alpha, fresh = 0.1, 400
    values = np.random.default_rng(5).uniform(0, 1, 300 + fresh)
    scores = tmp_path / "scores.jsonl"
    with judge_server(opinion_of) as judge:
        with guarded(judge, scores=scores, queue=1_000) as served:
            for value in values[:300]:
                served.say(f"u={value:.4f}")
            until(lambda: served.given() == 300, PATIENCE)
        bundle = tmp_path / "rating.tocsin"
        done = tocsin(
            "promise", scores, "--score", "rating", "--alpha", alpha, "--share", 1.0, "--out", bundle,
            "--json", tmp_path / "promise.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        law = json.loads((tmp_path / "promise.json").read_text())["laws"]["critical"]
        opinions = {"rating": {"kind": "rating", "bundle": bundle}}
        with guarded(judge, opinions=opinions, queue=1_000) as served:
            for value in values[300:]:
                served.say(f"u={value:.4f}")
            until(lambda: served.given() == fresh, PATIENCE)
            alarms = served.given(severity="critical")
            assert served.guard.metric("tocsin_alarms_total", model="m:rating", severity="critical") == alarms
            assert served.guard.metric("tocsin_responses_total", model="m:rating") == fresh
            assert served.guard.metric("tocsin_alpha", model="m:rating", severity="critical") == alpha
    n, k = law["n"], law["k"]
    low, high = betabinom.ppf([5e-5, 1 - 5e-5], fresh, n + 1 - k, k)
    assert low <= alarms <= high
