"""Claim: no client and no server can tell whether a relay is between them, whatever they are written in.

`make interop` tries everything; every run of the tests tries what is quick, with Go and Node. One alone:
`pytest -m interop tests/interop -k "go-node-closed-near-cancel"`, or `-m "not interop"` for a quick one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.dataplane.hops import missing as missing_proxies
from tests.interop.scenarios import CLIENTS, SCENARIOS, SERVERS, Scenario
from tests.interop.stacks import missing
from tests.interop.world import MODES, World

SAME = [(stack, stack) for stack in CLIENTS]
HEAVY_PAIRS = [*SAME, ("go", "core"), ("core", "go"), ("node", "go"), ("java", "go")]
FAR_PAIRS = [*SAME, ("go", "core"), ("core", "go")]
PROXIED_PAIRS = [("go", "go"), ("core", "core"), ("node", "node")]
QUICK_PAIRS = [("go", "go"), ("node", "node"), ("node", "http2"), ("go", "http2")]
APPENDING_AND_HOLDING = ("annotate", "closed")


def _fits(scenario: Scenario, client: str, server: str, mode: str, hop: str = "") -> bool:
    peers = client in scenario.clients and server in scenario.servers
    return peers and mode in scenario.modes and hop not in scenario.without


def everything() -> Iterator[tuple[str, str, str, str, str]]:
    """Client, server, mode, where the relay is, scenario."""
    for name, scenario in SCENARIOS.items():
        for (client, server), mode in itertools.product(itertools.product(CLIENTS, SERVERS), MODES):
            if _fits(scenario, client, server, mode) and (not scenario.heavy or (client, server) in HEAVY_PAIRS):
                yield client, server, mode, "near", name
        for (client, server), mode, place in itertools.product(FAR_PAIRS, APPENDING_AND_HOLDING, ("before", "behind")):
            if _fits(scenario, client, server, mode) and not scenario.late and scenario.rate == 0:
                yield client, server, mode, f"delay-{place}", name
        for (client, server), mode, place in itertools.product(
            PROXIED_PAIRS, APPENDING_AND_HOLDING, ("before", "behind")
        ):
            for hop in ("envoy", "nginx"):
                if _fits(scenario, client, server, mode, hop) and not (scenario.late or scenario.heavy):
                    yield client, server, mode, f"{hop}-{place}", name


def quick() -> Iterator[tuple[str, str, str, str, str]]:
    for (client, server), mode in itertools.product(QUICK_PAIRS, APPENDING_AND_HOLDING):
        for name, scenario in SCENARIOS.items():
            is_raw = scenario.servers == ["http2"]
            if scenario.quick and _fits(scenario, client, server, mode) and is_raw == (server == "http2"):
                yield client, server, mode, "near", name


def _named(cases: Iterator[tuple[str, ...]]) -> list[Any]:
    return [pytest.param(*case, id="-".join(case)) for case in cases]


NAMES = ("client", "server", "mode", "way", "name")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Everything where it is asked for: to make thousands of cases only to leave them out takes seconds."""
    if metafunc.function is test_nothing_differs_with_the_relay:
        left_out = "not interop" in metafunc.config.option.markexpr
        metafunc.parametrize(NAMES, [] if left_out else _named(everything()))


@pytest.mark.interop
def test_nothing_differs_with_the_relay(world: World, client: str, server: str, mode: str, way: str, name: str) -> None:
    lacking = [missing(client), missing(server), missing_proxies() if way.startswith(("envoy", "nginx")) else ""]
    if any("Java" in what for what in lacking):
        pytest.skip(f"JAVA IS NOT TESTED HERE, for want of {'; '.join(sorted({*lacking} - {''}))}")
    if any(lacking):
        pytest.fail(f"this needs what is not installed: {'; '.join(filter(None, lacking))}; `make interop` installs it")
    compare(world, client, server, mode, way, name)


@pytest.mark.parametrize(NAMES, _named(quick()))
def test_go_and_node_see_no_difference_with_the_relay(
    world: World, client: str, server: str, mode: str, way: str, name: str
) -> None:
    lacking = {missing(client), missing(server)} - {""}
    if lacking:
        pytest.skip(f"INTEROPERABILITY IS NOT TESTED HERE, for want of {'; '.join(sorted(lacking))}")
    compare(world, client, server, mode, way, name)


def compare(world: World, client: str, server: str, mode: str, way: str, name: str) -> None:
    scenario = SCENARIOS[name]
    hop, _, place = way.partition("-") if "-" in way else ("", "", "")
    expected = world.direct(name, scenario, client, server, hop)
    for outcome, _ in expected["outcomes"]:
        code = outcome["code"] if scenario.code is not None else None
        shape = code, len(outcome["messages"]) if scenario.messages is not None else None
        assert shape == (scenario.code, scenario.messages), "without the relay"
    assert sum(count for _, count in expected["outcomes"]) == scenario.repeat
    for outcome in expected["background"]:
        assert (outcome["code"], len(outcome["messages"])) == (0, scenario.background_messages), "without the relay"
    assert expected.get("ending", "") == scenario.ending, "without the relay"
    assert world.observe(scenario, client, server, hop, mode, place) == expected
