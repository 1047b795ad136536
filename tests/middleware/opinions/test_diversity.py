"""Claims about the diversity of answers: of the latest ones, as an embedder sees them."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.judge_server import Reply, judge_server
from tests.middleware.opinions.served import PATIENCE, Guarded, guarded, opinion_of

from tocsin.opinions.diversity import DiversityWindow
from tocsin.opinions.health import diversity_facts, families
from tocsin.relay.health import summed_facts

pytestmark = pytest.mark.long


def embedded(vectors: list[list[float]]) -> bytes:
    return json.dumps({"data": [{"embedding": vectors.pop(0)}]}).encode()


def test_collapse_shows_in_the_latest_answers() -> None:
    vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] + [[1.0, 1.0, 0.0]] * 3
    with judge_server(opinion_of) as judge, judge_server(lambda text: embedded(vectors)) as embedder:
        diversity = {"embedder": {"url": embedder.url, "model": "e"}, "window": 3}
        with guarded(judge, diversity=diversity, concurrent=1) as served:
            for expected in (3.0, 1.0):
                for _ in range(3):
                    served.say("safe")
                until(partial(has_score, served, expected), PATIENCE)
            assert served.guard.metric("tocsin_answer_diversity_answers", model="m") == 3
            assert not served.lost()
    assert embedder.prompts == [" w0 w1 w2 w3 w4 w5"] * 6


def has_score(served: Guarded, expected: float) -> bool:
    return abs(served.guard.metric("tocsin_answer_diversity", model="m") - expected) < 1e-3


@pytest.mark.parametrize(
    "reply", [500, b"{}", b'{"data": [{"embedding": [0.0, 0.0]}]}', b'{"data": [{"embedding": [NaN]}]}']
)
def test_an_embedder_that_gives_no_embedding_costs_no_opinion(reply: Reply) -> None:
    with judge_server(opinion_of) as judge, judge_server(lambda text: reply) as embedder:
        diversity = {"embedder": {"url": embedder.url, "model": "e"}}
        with guarded(judge, diversity=diversity) as served:
            served.say("safe")
            until(lambda: served.guard.metric("tocsin_judge_calls_total", model="m") == 2, PATIENCE)
            assert served.given() == 1 and not served.lost()
            assert not served.guard.metric("tocsin_answer_diversity_answers", model="m")


def test_that_of_workers_is_their_mean_and_another_embedder_begins_anew() -> None:
    windows = [DiversityWindow(5), DiversityWindow(5)]
    windows[0].add(np.ones(4, np.float32))
    for row in (*np.eye(3, dtype=np.float32), *np.eye(2, dtype=np.float32)):
        windows[1].add(row)
    facts = summed_facts([{"answer_diversity": diversity_facts("m", window.diversity())} for window in windows])
    shown = {family.name: family.samples[0].value for family in families(facts) if "diversity" in family.name}
    assert shown == {"tocsin_answer_diversity": pytest.approx(1.5), "tocsin_answer_diversity_answers": 1.5}
