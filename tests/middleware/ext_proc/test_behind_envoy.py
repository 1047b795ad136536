"""Claim: behind a real Envoy, callers see what they see behind the relay, on every kind of call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness import ranker as acme
from benchmarks.harness.parts import running
from tests.middleware.inprocess.test_positions import POLICIES, SCENARIOS
from tests.positions import ANSWERS, ask, config, positioned

pytestmark = pytest.mark.long


@pytest.mark.parametrize("policy", POLICIES)
def test_callers_see_what_they_see_behind_the_relay(policy: str, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "relay"
    folder.mkdir()
    with acme.ranker(ANSWERS) as (_, address), running(config(bundle, folder, address, POLICIES[policy])) as relay:
        with grpc.insecure_channel(relay.target) as channel:
            expected: dict[str, Any] = {name: ask(channel, *scenario) for name, scenario in SCENARIOS.items()}
    with positioned("envoy", bundle, tmp_path, POLICIES[policy]) as (say, _):
        for name, scenario in SCENARIOS.items():
            assert say(*scenario) == expected[name], name
