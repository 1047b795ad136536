"""Claims about signals of a session's previous response: every position compares each chunk with the one before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.harness import ranker as acme
from numpy.typing import NDArray
from tests.positions import POSITIONS, config, positioned

from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.judgement.call import Read
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.protocols.paths import signal_path
from tocsin.protocols.rows import Family
from tocsin.state.opening import State
from tocsin.verdict import Verdict
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Observations, OverlapDisagreement, compile

SAMPLES, STEPS = 2, 4
VECTOR = acme.SIGNALS["embedding"]
SIGNALS = {"actions": VECTOR, "previous_actions": {"previous": "actions"}}
POLICY = {"mode": "annotate", "session": "metadata.x-session-id", "signals": SIGNALS}


def chunk(step: int, seed: int, offset: float = 0.0) -> NDArray[np.float32]:
    """A plan (S H,) for the steps from `step` on: a course that all samples follow, but for a little noise."""
    course = np.sin(np.arange(step, step + STEPS)) + offset
    noise = 0.05 * np.random.default_rng(seed).normal(size=(SAMPLES, STEPS))
    return np.asarray((course + noise).ravel(), np.float32)


CHUNKS = {
    **{f"a{step}": chunk(step, step) for step in range(4)},
    **{f"b{step}": chunk(step + 7, 50 + step) for step in range(4)},
    "a4": chunk(4, 4, offset=3.0),  # it changes its mind
}
CALLS = ["a0", "b0", "a1", "b1", "b2", "a2", "a3", "b3", "a4"]


def answer(actions: NDArray[np.float32]) -> bytes:
    message = acme.Response(model="digits")
    message.vector.kind = 1
    message.vector.shape.extend([1, len(actions)])
    message.vector.data = actions.astype("<f4").tobytes()
    return bytes(message.SerializeToString())


ANSWERS = {name: answer(actions) for name, actions in CHUNKS.items()} | {
    "empty": acme.Response(model="digits").SerializeToString()
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    detector = OverlapDisagreement(executed=1, samples=SAMPLES, steps=STEPS)
    pairs = [(chunk(step, 1_000 + step), chunk(step + 1, 2_000 + step)) for step in range(900)]
    safe = Observations({
        "previous_actions": np.stack([before for before, _ in pairs]), "actions": np.stack([now for _, now in pairs]),
    })  # fmt: skip
    scorer = compile([detector], fit_on=safe.take(slice(0, 300)))
    promise = calibrate(scorer(safe.take(slice(300, None))), {"critical": 0.01}, detectors=scorer.detectors)
    path = tmp_path_factory.mktemp("stac") / "stac.tocsin"
    Bundle(scorer, promise, "digits").write(path)
    return path


def expected_of(bundle: Path) -> list[tuple[str | None, float]]:
    """The severity and the p-value of each call but the first of its session, from the two chunks themselves."""
    stac_bundle = Bundle.read(bundle)
    before: dict[str, Any] = {}
    result: list[tuple[str | None, float]] = []
    for name in CALLS:
        if name[0] in before:
            rows = {"actions": CHUNKS[name][None], "previous_actions": before[name[0]][None]}
            judged = stac_bundle.require_promise().judge(stac_bundle.scorer(Observations(rows)))
            result.append((judged.severities[0], judged.pvalues[0]))
        before[name[0]] = CHUNKS[name]
    return result


def session(name: str) -> dict[str, Any]:
    return {"metadata": [("x-session-id", name)]}


def verdict_of(outcome: dict[str, Any]) -> Verdict:
    (text,) = outcome["verdicts"]
    return Verdict.from_metadata(text)


@pytest.mark.parametrize("position", ["relay", "envoy", *POSITIONS])
def test_each_chunk_is_compared_with_the_one_before_it_in_its_session(
    position: str, bundle: Path, tmp_path: Path
) -> None:
    expected = iter(expected_of(bundle))
    started: set[str] = set()
    with positioned(position, bundle, tmp_path, POLICY, answers=ANSWERS) as (say, _):
        for name in CALLS:
            verdict = verdict_of(say("Rank", [name], **session(name[0])))
            if name[0] not in started:
                assert verdict.unscored == "no_previous"
                started.add(name[0])
                continue
            severity, pvalue = next(expected)
            assert (verdict.unscored, verdict.severity) == (None, severity), name
            assert verdict.pvalues == pytest.approx([pvalue], rel=1e-2), name
            assert (severity is not None) == (name == "a4")
        assert verdict_of(say("Rank", ["a1"])).unscored == "no_previous"  # it names no session


def test_a_response_that_cannot_be_read_is_before_no_other(bundle: Path, tmp_path: Path) -> None:
    with positioned("relay", bundle, tmp_path, POLICY, answers=ANSWERS) as (say, _):
        reasons = [verdict_of(say("Rank", [name], **session("a"))).unscored for name in ("a0", "a1")]
        assert reasons == ["no_previous", None]
        assert verdict_of(say("Rank", ["empty"], **session("a"))).unscored == "missing_signal"
        assert verdict_of(say("Rank", ["a2"], **session("a"))).unscored == "no_previous"
        assert verdict_of(say("Rank", ["a3"], **session("a"))).unscored is None


def test_a_stream_of_chunks_may_be_the_session(bundle: Path, tmp_path: Path) -> None:
    policy = {**POLICY, "session": "stream"}
    with positioned("relay", bundle, tmp_path, policy, answers=ANSWERS) as (say, _):
        assert verdict_of(say("Watch", ["a0 a1 a2 a3 a4"])).severity == "critical"
        assert verdict_of(say("Watch", ["a0 a1 a2 a3"])).severity is None
        assert verdict_of(say("Watch", ["a4"])).severity is None  # nothing is left of the streams before


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"session": None}, "set models.digits.session"),
        ({"on_alarm": {"critical": "retry"}, "retry": {"most": 1}}, "instead of retry"),
        ({"shadow": "BUNDLE"}, "leave shadow out"),
        ({"signals": {**SIGNALS, "previous_actions": {"previous": "chunks"}}}, "no signal 'chunks' that is read"),
    ],
)
def test_what_cannot_have_a_previous_response_is_refused(
    more: dict[str, Any], problem: str, bundle: Path, tmp_path: Path
) -> None:
    policy = {**POLICY, **{key: str(bundle) if value == "BUNDLE" else value for key, value in more.items()}}
    with pytest.raises(ConfigError, match=problem):
        Guard.open(config(bundle, tmp_path, "127.0.0.1:1", policy))


@pytest.mark.parametrize("value", [{"previous": 1}, {"previous": "a.b"}, {"previous": "a", "bytes": "response.b"}])
def test_a_previous_signal_names_another_signal(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"as {previous: SIGNAL}"):
        signal_path(value)
    assert signal_path({"previous": "actions"}).is_previous


def test_a_recording_has_the_chunk_before_beside_each_chunk(tmp_path: Path) -> None:
    model = {"protocol": "ranker", "session": POLICY["session"], "signals": SIGNALS}
    recording = Config(protocols=acme.protocol(tmp_path), models={"digits": model})
    recorded: list[tuple[list[str], list[bytes]]] = []

    def keep(model: GuardedModel, family: Family, batch: list[Read]) -> None:
        del model
        recorded.extend(([kind[0] for kind in family.signals], raws) for _, _, raws in batch)

    guard = Guard(recording, guarded_models(recording, State()), keep=keep)
    calls = []
    for name in ("a0", "a1", "a2"):
        call = guard.call(acme.PATHS["Rank"], {"x-session-id": "a"})
        assert call is not None
        call.response = ANSWERS[name]
        calls.append(call)
    guard.judge(calls)
    assert [names for names, _ in recorded] == [["actions", "previous_actions"]] * 2
    assert [raws[1] for _, raws in recorded] == [CHUNKS[name].tobytes() for name in ("a0", "a1")]
