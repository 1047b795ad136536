"""Claim: relay, client wrapper and server interceptor, sync and aio, decide and act alike on every kind of call."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness import ranker as acme
from benchmarks.harness.parts import running
from tests.positions import ANSWERS, POSITIONS, ask, ask_aio, config, positioned

SCENARIOS = {
    "one, safe": ("Rank", ["safe3"]),
    "one, far": ("Rank", ["far"]),
    "one, without signals": ("Rank", ["empty"]),
    "one, of a stranger": ("Rank", ["stranger"]),
    "watch, safe": ("Watch", ["safe3 safe4 safe5"]),
    "watch, far in the middle": ("Watch", ["safe3 far safe5"]),
    "watch, without signals": ("Watch", ["safe3 empty safe5"]),
    "sum, safe": ("Sum", ["far", "safe3"]),
    "sum, far": ("Sum", ["safe3", "far"]),
    "chat, safe": ("Chat", ["safe3", "safe4", "safe5"]),
    "chat, far at the end": ("Chat", ["safe3", "safe4", "far"]),
}
ABSTAIN = {"response": {"model": "nobody"}, "keep": ["id"]}
POLICIES: dict[str, dict[str, Any]] = {
    "observe": {"mode": "observe"},
    "annotate": {"mode": "annotate"},
    "flag": {"mode": "enforce"},
    "block": {"mode": "enforce", "on_alarm": {"critical": "block"}, "fail": "closed"},
    "abstain": {"mode": "enforce", "on_alarm": {"critical": "abstain"}, "abstain": ABSTAIN},
    "end": {"mode": "enforce", "on_alarm": {"critical": "block"}, "judge": "end"},
    "retry": {"mode": "enforce", "on_alarm": {"critical": "retry"}, "retry": {"most": 2, "otherwise": "block"}},
}


@pytest.fixture(scope="module", params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(policy: str, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What callers see behind the relay, which sync and aio callers must see alike."""
    folder = tmp_path_factory.mktemp("relay")
    with acme.ranker(ANSWERS) as (_, address), running(config(bundle, folder, address, POLICIES[policy])) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            outcomes = {name: ask(channel, *scenario) for name, scenario in SCENARIOS.items()}

        async def aio() -> dict[str, Any]:
            async with grpc.aio.insecure_channel(relay.target) as channel:
                return {name: await ask_aio(channel, *scenario) for name, scenario in SCENARIOS.items()}

        assert asyncio.run(aio()) == outcomes
    return outcomes


def test_the_relay_does_what_the_policy_says(policy: str, expected: dict[str, Any]) -> None:
    ok, far = grpc.StatusCode.OK, expected["one, far"]
    assert [s["code"] for s in expected.values() if s is expected["one, safe"]] == [ok]
    if policy == "observe":
        assert all(not outcome["verdicts"] and outcome["code"] is ok for outcome in expected.values())
    elif policy in ("annotate", "flag"):
        assert all(len(outcome["verdicts"]) == 1 and outcome["code"] is ok for outcome in expected.values())
    elif policy == "abstain":
        assert acme.Response.FromString(far["responses"][0]) == acme.Response(model="nobody", id="0")
    else:
        assert (far["code"], far["responses"]) == (grpc.StatusCode.PERMISSION_DENIED, [])
    if policy == "block":
        assert expected["one, without signals"]["code"] is grpc.StatusCode.UNAVAILABLE
        assert len(expected["watch, without signals"]["responses"]) == 1
        assert expected["watch, far in the middle"]["code"] is grpc.StatusCode.PERMISSION_DENIED
    if policy == "end":
        assert expected["watch, far in the middle"]["responses"] == []


@pytest.mark.parametrize("position", POSITIONS)
def test_every_position_decides_and_acts_as_the_relay_does(
    position: str, policy: str, expected: dict[str, Any], bundle: Path, tmp_path: Path
) -> None:
    with positioned(position, bundle, tmp_path, POLICIES[policy]) as (say, _):
        for name, scenario in SCENARIOS.items():
            outcome = say(*scenario)
            if policy == "observe":  # a client sees its own verdict in every mode; servers and the relay add none
                outcome = {**outcome, "verdicts": []}
            assert outcome == expected[name], name
