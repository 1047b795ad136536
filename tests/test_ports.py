"""Claim: two processes of tests or benchmarks never give the same port to their servers."""

from __future__ import annotations

from itertools import islice

from benchmarks.harness.parts import PORTS, _next_ports


def test_each_process_has_ports_of_its_own() -> None:
    first, second = _next_ports.__wrapped__(), _next_ports.__wrapped__()
    assert set(islice(first, PORTS)).isdisjoint(islice(second, PORTS))
