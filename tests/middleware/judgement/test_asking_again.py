"""Claim: what sends a request once more (retry, fallback) does the same in every position, on every kind of call.

An answer is delivered whole or not at all: never an empty OK, never a caller who waits for his deadline.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness import ranker as acme
from tests.positions import ANSWERS, POSITIONS, TIMEOUT, ask, positioned

EVERYWHERE = ["relay", *POSITIONS, "envoy"]
KINDS = {"Rank": ["far"], "Watch": ["far safe4 far safe5"], "Sum": ["safe4", "far"], "Chat": ["far", "safe4"]}
SAFER = {**ANSWERS, "far": ANSWERS["safe7"]}
ASKABLE = ("Rank", "Watch")  # one request, which is there to be sent again

RETRIES = {"mode": "enforce", "on_alarm": {"critical": "retry"}, "retry": {"most": 2, "otherwise": "block"}}


def falls_back(address: str, **more: Any) -> dict[str, Any]:
    fallback = {"upstream": address, "deadline": "5s", "otherwise": "block", **more}
    return {"mode": "enforce", "on_alarm": {"critical": "fallback"}, "fallback": fallback}


def action(outcome: dict[str, Any]) -> str:
    (verdict,) = outcome["verdicts"]
    return str(json.loads(verdict)["action"])


def contents(*names: str) -> list[bytes]:
    messages = [acme.Response.FromString(SAFER[name]) for name in names]
    return [message.SerializeToString(deterministic=True) for message in messages]


@pytest.mark.parametrize("judge", ["message", "end"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", EVERYWHERE)
def test_the_fallbacks_answer_is_delivered_whole_and_asked_once(
    position: str, kind: str, judge: str, bundle: Path, tmp_path: Path
) -> None:
    with acme.ranker(SAFER) as (safer, address):
        policy = {**falls_back(address), "judge": judge}
        with positioned(position, bundle, tmp_path, policy) as (say, service):
            outcome = say(kind, KINDS[kind])
            assert service.calls == [kind]
    if kind in ASKABLE:
        expected = {"Rank": ["far"], "Watch": ["far", "safe4", "far", "safe5"]}[kind]
        assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.OK, contents(*expected))
        assert (safer.calls, action(outcome)) == ([kind], "fallback")
    else:
        assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.PERMISSION_DENIED, [])
        assert (safer.calls, action(outcome)) == ([], "block")


@pytest.mark.parametrize("kind", ASKABLE)
@pytest.mark.parametrize("position", EVERYWHERE)
@pytest.mark.parametrize("trouble", ["away", "fails", "hangs", "answers nothing", "breaks off"])
def test_a_fallback_that_fails_is_followed_by_what_is_done_otherwise(
    trouble: str, position: str, kind: str, bundle: Path, tmp_path: Path
) -> None:
    with acme.ranker({} if trouble == "fails" else SAFER) as (safer, address):
        if trouble == "hangs":
            safer.delay = 5.0
        if trouble == "answers nothing":
            safer.silent = True
        if trouble == "breaks off":
            safer.answers = {"far": SAFER["far"]} if kind == "Watch" else {}
        upstream = "127.0.0.1:1" if trouble == "away" else address
        policy = falls_back(upstream, deadline="300ms" if trouble == "hangs" else "5s")
        with positioned(position, bundle, tmp_path, policy) as (say, _):
            started = time.monotonic()
            outcome = say(kind, KINDS[kind])
            assert time.monotonic() - started < TIMEOUT
    assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.PERMISSION_DENIED, [])
    assert action(outcome) == "block" and len(safer.calls) <= 1


@pytest.mark.parametrize("judge", ["message", "end"])
@pytest.mark.parametrize("kind", ASKABLE)
@pytest.mark.parametrize("position", EVERYWHERE)
def test_a_further_try_that_passes_is_delivered_whole(
    position: str, kind: str, judge: str, bundle: Path, tmp_path: Path
) -> None:
    sequence = {"wavering": [ANSWERS["far"], ANSWERS["far"], ANSWERS["safe7"]]}
    query = {"Rank": "wavering", "Watch": "wavering safe3 safe4"}[kind]
    with positioned(position, bundle, tmp_path, {**RETRIES, "judge": judge}, sequence=sequence) as (say, service):
        outcome = say(kind, [query])
        assert service.calls == [kind] * 3
    expected = {"Rank": ["safe7"], "Watch": ["safe7", "safe3", "safe4"]}[kind]
    assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.OK, contents(*expected))
    assert action(outcome) == "retry" and json.loads(outcome["verdicts"][0])["alarm"] is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", EVERYWHERE)
def test_tries_that_do_not_pass_are_followed_by_what_is_done_otherwise(
    position: str, kind: str, bundle: Path, tmp_path: Path
) -> None:
    with positioned(position, bundle, tmp_path, RETRIES) as (say, service):
        outcome = say(kind, KINDS[kind])
        assert service.calls == [kind] * (3 if kind in ASKABLE else 1)
    assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.PERMISSION_DENIED, [])
    assert action(outcome) == "block"


@pytest.mark.parametrize("position", EVERYWHERE)
def test_what_is_flagged_otherwise_goes_out_as_it_came(position: str, bundle: Path, tmp_path: Path) -> None:
    policy = falls_back("127.0.0.1:1", otherwise="flag")
    with positioned(position, bundle, tmp_path, policy) as (say, service):
        outcome = say("Watch", ["far safe4 far safe5"])
        assert service.calls == ["Watch"]
    far = acme.Response.FromString(ANSWERS["far"]).SerializeToString(deterministic=True)
    safe = contents("safe4", "safe5")
    assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.OK, [far, safe[0], far, safe[1]])
    assert action(outcome) == "flag"


@pytest.mark.parametrize("position", EVERYWHERE)
def test_what_has_gone_out_is_not_asked_for_again(position: str, bundle: Path, tmp_path: Path) -> None:
    with acme.ranker(SAFER) as (safer, address):
        policy = {**falls_back(address), "judge": "message"}
        with positioned(position, bundle, tmp_path, policy) as (say, _):
            outcome = say("Watch", ["safe3 far safe5"])
    assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.PERMISSION_DENIED, contents("safe3"))
    assert safer.calls == [] and action(outcome) == "block"


@pytest.mark.parametrize("position", EVERYWHERE)
@pytest.mark.parametrize("kind", ASKABLE)
def test_the_verdict_says_what_was_done_and_no_other(position: str, kind: str, bundle: Path, tmp_path: Path) -> None:
    policy = {**RETRIES, "retry": {"most": 1, "otherwise": "abstain"}}
    with positioned(position, bundle, tmp_path, policy) as (say, _):
        outcome = say(kind, KINDS[kind])
    assert outcome["code"] is grpc.StatusCode.FAILED_PRECONDITION and action(outcome) == "abstain"


METADATA = (
    ("tenant-id", "a"), ("team", "b"), ("te-x", "c"), ("hostname", "d"), ("host-group", "e"), ("connection-id", "f"),
    ("user-agent-hint", "g"), ("content-type-wanted", "h"), ("grpc-trace-bin", b"\0\xff"), ("x-key-bin", b"\0\1\2"),
    ("x-twice", "1"), ("x-twice", "2"), ("authorization", "Bearer x"),
)  # fmt: skip


@pytest.mark.parametrize("kind", ASKABLE)
@pytest.mark.parametrize("position", EVERYWHERE)
@pytest.mark.parametrize("way", ["retry", "fallback"])
def test_the_callers_metadata_goes_along(way: str, position: str, kind: str, bundle: Path, tmp_path: Path) -> None:
    with acme.ranker(SAFER) as (safer, address):
        policy = RETRIES if way == "retry" else falls_back(address)
        with positioned(position, bundle, tmp_path, policy) as (say, service):
            say(kind, KINDS[kind], metadata=METADATA)
    with acme.ranker(ANSWERS) as (bare, address), grpc.insecure_channel(address) as channel:
        ask(channel, kind, KINDS[kind], metadata=METADATA)
    came = safer.metadata[-1] if way == "fallback" else service.metadata[-1]
    sent, expected = (sorted(p for p in metadata if p[0] != "user-agent") for metadata in (came, bare.metadata[-1]))
    assert sent == expected and len(came) == len(bare.metadata[-1])
    assert {key for key, _ in came} >= dict(METADATA).keys() - {"grpc-trace-bin"}
