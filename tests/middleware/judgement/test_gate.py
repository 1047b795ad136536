"""Claim: the gate alone, without sockets or gRPC, lets out what may go, in its order, and nothing that may not."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness import ranker
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    STREAM_INFER,
    far_away,
    inference,
    inline_guard,
    quick_bundle,
    safe_traffic,
    settings,
    streamed,
)

from tocsin.judgement.actions import END, Actions, Ask, Judge, Release, Replace
from tocsin.judgement.call import Call
from tocsin.judgement.gate import Gate
from tocsin.judgement.guard import Guard
from tocsin.judgement.outgoing import ACTING, DONE, HOLDING, PASSING

SAFE, STRANGE = safe_traffic(40, seed=3), far_away(1)
BLOCKS = {"critical": "block", "warning": "block"}
RETRIES = {"on_alarm": {"critical": "retry", "warning": "retry"}, "retry": {"most": 2, "otherwise": "block"}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "quick.tocsin"
    quick_bundle(path)
    return path


@pytest.fixture
def safe(bundle: Path) -> list[bytes]:
    """Responses that raise no alarm, picked by the guard itself."""
    guard = guarding(bundle)
    contents = [inference(SAFE, slice(row, row + 1)) for row in range(40)]
    calm = [content for content in contents if judged(guard, content).action == "pass"]
    assert len(calm) > 20
    return calm


def guarding(bundle: Path, mode: str = "enforce", **more: Any) -> Guard:
    model = {"signals": SIGNALS, "bundle": bundle, "on_alarm": BLOCKS, **more}
    return inline_guard(settings(1, None, mode=mode, models={"digits": model}))


def judged(guard: Guard, content: bytes, method: str = INFER) -> Any:
    call = guard.call(method, {})
    assert call is not None
    call.on_response_message(content)
    guard.judge([call])
    return call.verdict


def gate_of(guard: Guard, method: str = INFER, **more: Any) -> Gate:
    call = guard.call(method, {})
    assert call is not None
    call.on_request_message(b"the request")
    return Gate(guard, call, **{"holds": True, **more})


class Position:
    """A position that performs the gate's actions and records them."""

    def __init__(self, gate: Gate, answers: list[list[bytes] | None] | None = None) -> None:
        self.gate = gate
        self.out: list[Any] = []
        self.pieces: deque[Call] = deque()
        self.answers = answers or []
        self.asks: list[Ask] = []

    def do(self, actions: Actions) -> None:
        for action in actions:
            if isinstance(action, Release):
                self.out += action.items
            elif isinstance(action, Judge):
                self.pieces.append(action.call)
            elif isinstance(action, Replace):
                self.out.append(action.instead.status.name)
                self.out += action.instead.responses
            elif action is END:
                self.out.append("end")
            else:
                assert isinstance(action, Ask)
                self.asks.append(action)

    def judge(self, place: int = 0) -> None:
        """Give one of the pieces its verdict."""
        self.pieces.rotate(-place)
        piece = self.pieces.popleft()
        self.pieces.rotate(place)
        self.gate.guard.judge([piece])
        self.do(self.gate.on_verdict(piece))
        piece.forget()

    def answer(self) -> None:
        self.do(self.gate.on_answer(self.answers.pop(0)))


def test_a_response_waits_for_its_verdict_and_its_end_behind_it(bundle: Path, safe: list[bytes]) -> None:
    position = Position(gate_of(guarding(bundle)))
    gate = position.gate
    position.do(gate.on_message("a", safe[0]))
    position.do(gate.on_end())
    assert position.out == [] and gate.is_holding and gate.state == HOLDING
    position.judge()
    assert position.out == ["a", "end"] and gate.state == DONE and not gate.is_holding


def test_an_alarm_is_replaced_and_nothing_follows(bundle: Path) -> None:
    position = Position(gate_of(guarding(bundle)))
    gate = position.gate
    position.do(gate.on_message("a", inference(STRANGE, slice(0, 1))))
    position.judge()
    position.do(gate.on_end())
    position.do(gate.on_message("late", b""))
    assert position.out == ["PERMISSION_DENIED"] and gate.state == DONE
    assert gate.verdict is not None and gate.verdict.action == "block"


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_order_of_verdicts_a_stream_keeps_its_own(bundle: Path, safe: list[bytes], seed: int) -> None:
    order = random.Random(seed)
    position = Position(gate_of(guarding(bundle), STREAM_INFER))
    gate, items, ended = position.gate, list(range(12)), False
    coming = deque(items)
    while coming or position.pieces or not ended:
        if coming and order.random() < 0.5:
            position.do(gate.on_message(item := coming.popleft(), streamed(safe[item])))
        elif position.pieces:
            position.judge(order.randrange(len(position.pieces)))
        elif not coming and not ended:
            ended = True
            position.do(gate.on_end())
        assert position.out == [*items[: len(position.out)]] or position.out == [*items, "end"]
    assert position.out == [*items, "end"]


@pytest.mark.parametrize("seed", range(30))
def test_nothing_of_a_stream_passes_an_alarm(bundle: Path, safe: list[bytes], seed: int) -> None:
    order = random.Random(seed)
    position = Position(gate_of(guarding(bundle), STREAM_INFER))
    gate, bad = position.gate, order.randrange(8)
    for item in range(8):
        content = inference(STRANGE, slice(0, 1)) if item == bad else safe[item]
        position.do(gate.on_message(item, streamed(content)))
        while position.pieces and order.random() < 0.6:
            position.judge(order.randrange(len(position.pieces)))
    position.do(gate.on_end())
    while position.pieces:
        position.judge(order.randrange(len(position.pieces)))
    passed = position.out[: position.out.index("PERMISSION_DENIED")]
    assert passed == list(range(len(passed))) and len(passed) <= bad
    assert position.out[-1] == "PERMISSION_DENIED"


def test_a_retry_that_is_calm_takes_the_place_of_the_alarm(bundle: Path, safe: list[bytes]) -> None:
    position = Position(gate_of(guarding(bundle, **RETRIES), can_retry=True), [None, [safe[0]]])
    gate = position.gate
    position.do(gate.on_message("a", inference(STRANGE, slice(0, 1))))
    position.judge()
    assert gate.state == ACTING and [step.request for step in position.asks] == [b"the request"]
    position.do(gate.on_end())
    position.answer()  # the first try fails
    position.answer()
    position.judge()
    assert len(position.asks) == 2 and position.out == ["OK", safe[0]]
    assert gate.verdict is not None and gate.verdict.action == "retry"


@pytest.mark.parametrize(("answer", "out"), [(False, ["a", "b", "end"]), (True, ["OK", "A", "B"])])
def test_what_is_judged_while_somebody_is_asked_waits_for_the_answer(
    bundle: Path, tmp_path: Path, answer: bool, out: list[str]
) -> None:
    policy = {"on_alarm": {"critical": "retry", "warning": "retry"}, "retry": {"most": 1, "otherwise": "flag"}}
    model = {"protocol": "ranker", "signals": ranker.SIGNALS, "bundle": bundle, **policy}
    config = settings(1, None, mode="enforce", models={"digits": model}, protocols=ranker.protocol(tmp_path))
    guard = inline_guard(config)
    calm = [ranker.answer(SAFE, row) for row in range(40)]
    first, second = [content for content in calm if judged(guard, content, ranker.PATHS["Rank"]).action == "pass"][:2]
    names = {first: "A", second: "B"}
    position = Position(gate_of(guard, ranker.PATHS["Watch"], can_retry=True), [[first, second] if answer else None])
    gate = position.gate
    position.do(gate.on_message("a", ranker.answer(ranker.far(1), 0)))
    position.do(gate.on_message("b", first))
    position.do(gate.on_end())
    position.judge()
    assert len(position.asks) == 1 and gate.state == ACTING
    position.judge()
    assert position.out == []
    position.answer()
    while position.pieces:
        position.judge()
    assert [names.get(item, item) for item in position.out] == out


def test_a_request_that_is_not_whole_is_not_sent_again(bundle: Path) -> None:
    position = Position(gate_of(guarding(bundle, **RETRIES), can_retry=True))
    position.gate.request_is_whole = False
    position.do(position.gate.on_message("a", inference(STRANGE, slice(0, 1))))
    position.judge()
    assert position.asks == [] and position.out == ["PERMISSION_DENIED"]


def test_acting_that_raises_fails_closed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarding(bundle)
    position = Position(gate_of(guard))

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no replacement")

    monkeypatch.setattr(type(guard.models["digits"].policy), "replacement", broken)
    position.do(position.gate.on_message("a", inference(STRANGE, slice(0, 1))))
    position.judge()
    assert position.out == ["UNAVAILABLE"]


@pytest.mark.parametrize(("fail", "out"), [("open", ["a", "end"]), ("closed", ["UNAVAILABLE"])])
def test_a_deadline_follows_the_fail_policy(bundle: Path, safe: list[bytes], fail: str, out: list[str]) -> None:
    position = Position(gate_of(guarding(bundle, fail=fail)))
    gate = position.gate
    position.do(gate.on_message("a", safe[0]))
    position.do(gate.on_end())
    position.do(gate.on_deadline())
    assert position.out == out
    position.judge()  # which comes too late, and changes nothing
    assert position.out == out and gate.verdict is not None and gate.verdict.unscored == "late"


def test_a_verdict_that_is_there_at_the_deadline_counts(bundle: Path) -> None:
    position = Position(gate_of(guarding(bundle)))
    gate = position.gate
    position.do(gate.on_message("a", inference(STRANGE, slice(0, 1))))
    gate.guard.judge([gate.call])  # in its thread: whoever brings the verdict is on the way
    position.do(gate.on_deadline())
    assert position.out == ["PERMISSION_DENIED"]
    position.do(gate.on_verdict(gate.call))
    assert position.out == ["PERMISSION_DENIED"]


def test_a_stream_that_gives_up_holding_under_a_verdict_ends_all_the_same(bundle: Path, safe: list[bytes]) -> None:
    position = Position(gate_of(guarding(bundle), STREAM_INFER))
    gate = position.gate
    position.do(gate.on_message("a", streamed(safe[0])))
    position.do(gate.give_up("too_large", "a response is larger than what may be held", "rest"))
    assert gate.state == PASSING and position.out == ["a", "rest"]
    position.do(gate.on_message("b", streamed(safe[1])))
    position.do(gate.on_end())
    assert position.out == ["a", "rest", "b", "end"]
    position.judge()
    assert position.out == ["a", "rest", "b", "end"]


@pytest.mark.parametrize(("fail", "out"), [("open", ["a", "b", "end"]), ("closed", ["UNAVAILABLE"])])
def test_a_second_message_of_one_goes_behind_it_or_nothing_does(
    bundle: Path, safe: list[bytes], fail: str, out: list[str]
) -> None:
    position = Position(gate_of(guarding(bundle, fail=fail)))
    gate = position.gate
    position.do(gate.on_message("a", safe[0]))
    position.do(gate.on_message("b", safe[1]))
    position.do(gate.on_end())
    while position.pieces:
        position.judge()
    assert position.out == out


@pytest.mark.parametrize("mode", ["annotate", "observe"])
def test_outside_of_enforce_only_the_end_waits(bundle: Path, mode: str) -> None:
    position = Position(gate_of(guarding(bundle, mode=mode), holds=False))
    gate = position.gate
    position.do(gate.on_message("a", inference(STRANGE, slice(0, 1))))
    position.do(gate.on_end())
    assert position.out == ["a"] and gate.is_holding
    position.judge()
    assert position.out == ["a", "end"]


def test_a_reset_lets_out_what_was_judged_before_it(bundle: Path, safe: list[bytes]) -> None:
    position = Position(gate_of(guarding(bundle), STREAM_INFER))
    gate = position.gate
    position.do(gate.on_message("a", streamed(safe[0])))
    position.do(gate.on_reset())
    assert position.out == []
    position.judge()
    assert position.out == ["a", "end"]


@pytest.mark.parametrize(("succeeded", "out"), [(True, ["UNAVAILABLE"]), (False, ["end"])])
def test_a_success_without_a_response_is_missing_one(bundle: Path, succeeded: bool, out: list[str]) -> None:
    position = Position(gate_of(guarding(bundle, fail="closed")))
    position.do(position.gate.on_end(succeeded=succeeded))
    assert position.out == out
