"""Claims about the model of a relay's cost: what is added for what, and what it is scaled by."""

from __future__ import annotations

import pytest

from tocsin.offline import relay_cost
from tocsin.offline.relay_cost import FITTED, MODES, UNSCORED, Coefficients, ResponseKind

ROUND_NUMBERS = Coefficients(call=100, kilobyte=2, row=3, stream=50, message=7, alone=20)


@pytest.mark.parametrize(
    ("kind", "us"),
    [
        (ResponseKind(0), 100),
        (ResponseKind(10), 120),
        (ResponseKind(0, rows=8), 121),
        (ResponseKind(0, messages=11), 220),
        (ResponseKind(5, rows=2, messages=2, one_at_a_time=True), 190),
    ],
)
def test_each_term_is_added_for_what_it_is_named_after(kind: ResponseKind, us: float) -> None:
    assert ROUND_NUMBERS.us(kind) == us
    assert ROUND_NUMBERS.us(kind, scoring_us=30) == us + 30


def test_every_mode_and_build_is_fitted_and_judging_costs_more_than_forwarding() -> None:
    kind = ResponseKind(1)
    for compiled in (False, True):
        unscored_us = FITTED[UNSCORED, compiled].us(kind)
        assert all(FITTED[mode, compiled].us(kind, scoring_us=10) > unscored_us > 0 for mode in MODES)


def test_a_slower_machine_has_a_larger_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_cost, "reference_us", lambda: 3 * relay_cost.REFERENCE_US)
    assert relay_cost.machine_factor() == pytest.approx(3)
