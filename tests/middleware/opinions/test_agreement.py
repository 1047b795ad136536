"""Claims about several judges: their agreement is measured, and an opinion they disagree about is not believed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.judge_server import JudgeServer, Reply, judge_server
from tests.command import tocsin
from tests.middleware.opinions.served import PATIENCE, Guarded, guarded, opinion_of

from tocsin.configuration.second_opinion import AgreementConfig
from tocsin.opinions.agreement import AgreementWindows
from tocsin.opinions.health import agreement_facts, families, intraclass_facts
from tocsin.relay.health import summed_facts

pytestmark = pytest.mark.long
WINDOW = 20


@pytest.fixture(scope="module")
def rating_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A promise of 10% for ratings that are uniform from 0 to 1."""
    folder = tmp_path_factory.mktemp("promise")
    (folder / "scores.csv").write_text("rating\n" + "".join(f"{n / 500:.6f}\n" for n in range(500)))
    command = ("promise", folder / "scores.csv", "--score", "rating", "--alpha", "0.1", "--share", "1.0")
    assert tocsin(*command, "-o", folder / "rating.tocsin").returncode == 0
    return folder / "rating.tocsin"


def contrary(prompt: str) -> Reply:
    """The opposite of what the other judge says."""
    probabilities = opinion_of(prompt)
    assert isinstance(probabilities, dict)
    return {"5": probabilities["1"], "1": probabilities["5"], "maybe": 1e-4}


def settings(judge: JudgeServer, at_least: float | None) -> dict[str, object]:
    judges = [{"url": judge.url, "model": "other"}]
    return {"judges": judges, "share": 1.0, "window": WINDOW, "at_least": at_least}


def say(served: Guarded, count: int) -> None:
    """Answers of which every second one is bad, each when both judges have been asked about the one before."""
    for number in range(count):
        calls = judge_calls(served) + 2
        served.say(f"u={number % 2 * 0.9:.1f}")
        until(partial(has_been_called, served, calls), PATIENCE)


def judge_calls(served: Guarded) -> float:
    return served.guard.metric("tocsin_judge_calls_total", model="m")


def has_been_called(served: Guarded, calls: float) -> bool:
    return judge_calls(served) == calls


def test_judges_that_disagree_are_not_believed_until_they_agree_again(rating_bundle: Path) -> None:
    opinions = {"rating": {"kind": "rating", "bundle": str(rating_bundle)}}
    with judge_server(opinion_of) as judge, judge_server(contrary) as other:
        with guarded(judge, opinions=opinions, agreement=settings(other, 0.667), concurrent=1) as served:
            say(served, WINDOW)
            until(lambda: served.guard.metric("tocsin_judge_agreement_calls", model="m") == WINDOW, PATIENCE)
            assert served.guard.metric("tocsin_judge_agreement", model="m", opinion="rating") < 0
            judged = served.given(severity="critical"), served.given(severity="none")
            assert sum(judged) == WINDOW and min(judged) > 0  # so many calls are needed to know
            say(served, 4)
            assert served.given(severity="disbelieved") == 4
            assert (served.given(severity="critical"), served.given(severity="none")) == judged
            assert served.guard.metric("tocsin_alarms_total", model="m:rating") == judged[0]
            other.reply = opinion_of
            say(served, WINDOW)
            until(lambda: served.guard.metric("tocsin_judge_agreement", model="m") > 0.999, PATIENCE)
            disbelieved = served.given(severity="disbelieved")
            say(served, 2)
            assert served.given(severity="disbelieved") == disbelieved


def test_a_judge_that_does_not_answer_is_no_disagreement() -> None:
    with judge_server(opinion_of) as judge, judge_server(lambda prompt: 500) as other:
        with guarded(judge, agreement=settings(other, 0.667), concurrent=1) as served:
            say(served, WINDOW + 2)
            assert served.given(severity="unpromised") == WINDOW + 2
            assert not served.lost()  # the opinion was given: only its agreement is unknown
            assert not served.guard.metric("tocsin_judge_agreement_calls", model="m", opinion="rating")


def windows(**more: object) -> AgreementWindows:
    judge = {"url": "http://127.0.0.1:9/v1", "model": "other"}
    return AgreementWindows(AgreementConfig.model_validate({"judges": [judge], **more}))


def test_the_agreement_of_workers_is_that_of_their_calls_together() -> None:
    ratings = [[{"rating": a}, {"rating": b}] for a, b in ((0.0, 0.1), (1.5, 2.0), (4.0, 3.0), (0.5, 0.25), (2.0, 2.0))]
    workers, together = [windows(), windows()], windows()
    for number, call in enumerate(ratings):
        workers[number % 2].add(call)
        together.add(call)
    facts = summed_facts(
        [
            {
                "judge_agreement": agreement_facts("m", worker.sums()),
                "judge_intraclass": intraclass_facts("m", worker.by_judge()),
            }
            for worker in workers
        ]
    )
    shown = {family.name: family.samples[0].value for family in families(facts) if family.samples}
    assert shown["tocsin_judge_agreement"] == pytest.approx(together.sums()["rating"].alpha, abs=1e-4)
    assert shown["tocsin_judge_agreement_calls"] == len(ratings)
    correlation = together.by_judge()["rating"].agreement
    assert shown["tocsin_judge_intraclass_correlation"] == pytest.approx(correlation, abs=1e-4)


def test_by_the_correlation_calls_that_a_judge_left_out_say_nothing() -> None:
    by_correlation, by_alpha = windows(at_least=0.667, measure="icc"), windows(at_least=0.667)
    for number in range(WINDOW):
        for judges in (by_correlation, by_alpha):
            judges.add([{"rating": float(number % 2)}, {"rating": float(1 - number % 2)}, {}])
    assert by_correlation.believes("rating") and not by_alpha.believes("rating")
    for number in range(WINDOW):
        by_correlation.add([{"rating": float(number % 2)}, {"rating": float(1 - number % 2)}, {"rating": 0.5}])
    assert not by_correlation.believes("rating")
