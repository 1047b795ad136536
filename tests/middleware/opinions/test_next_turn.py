"""Claims about dissatisfaction: the user's next turn labels the answer before it, for levels that follow feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.chat import tokens_bundle
from benchmarks.harness.judge_server import JudgeServer, Reply, judge_server
from tests.middleware.opinions.served import PATIENCE, Guarded, guarded

from tocsin.configuration.config import Config
from tocsin.configuration.opinions import NextTurnLabels
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.opinions.next_turn import AnswerLabels
from tocsin.opinions.questions import questions_of
from tocsin.protocols.texts import Conversation, Turn

REACTIONS = {"far": 0.97, "That is wrong.": 0.97, "Thanks!": 0.02, "And 3 + 3?": 0.5}
FEEDBACK = {"kind": "dissatisfaction", "feedback": {}}
ADAPT = {"method": "aci", "step": 0.02}


def reaction(prompt: str) -> Reply:
    yes = next(share for text, share in REACTIONS.items() if f"said: {text}" in prompt)
    return {"yes": yes, "no": 1 - yes}


def converse(served: Guarded, next_turn: str, question_text: str = "2 + 2?") -> None:
    """A question, its answer, and what the user says about it."""
    question = {"role": "user", "content": question_text}
    answer = served.complete([question])
    served.complete([question, {"role": "assistant", "content": answer}, {"role": "user", "content": next_turn}])


def feedback(judge: JudgeServer, folder: Path, **second: Any) -> Any:
    second = {"opinions": {"next_turn": FEEDBACK}, "concurrent": 1, **second}
    return guarded(judge, bundle=tokens_bundle(folder / "m.tocsin"), adapt=ADAPT, **second)


@pytest.mark.parametrize(("next_turn", "outcome"), [("That is wrong.", "bad"), ("Thanks!", "learnt")])
def test_what_the_user_says_next_labels_the_answer_before(tmp_path: Path, next_turn: str, outcome: str) -> None:
    with judge_server(reaction) as judge, feedback(judge, tmp_path) as served:
        converse(served, next_turn)
        until(lambda: served.guard.metric("tocsin_feedback_total", model="m", outcome=outcome) == 1, PATIENCE)
        assert served.guard.metric("tocsin_feedback_total", model="m") == 1
        assert served.lost(reason="no_next_turn") == 1  # the first call has nothing before it
        assert served.given(opinion="next_turn") == 1


def test_calls_that_an_alarm_chose_label_nothing(tmp_path: Path) -> None:
    with judge_server(reaction) as judge, feedback(judge, tmp_path, share=0.0, alarmed=True) as served:
        converse(served, "far", "far")
        until(lambda: served.given(opinion="next_turn", drawn="alarm") == 1, PATIENCE)
        assert not served.guard.metric("tocsin_feedback_total", model="m")


def test_an_undecided_judge_labels_nothing(tmp_path: Path) -> None:
    with judge_server(reaction) as judge, feedback(judge, tmp_path) as served:
        converse(served, "And 3 + 3?")
        until(lambda: served.given(opinion="next_turn") == 1, PATIENCE)
        assert not served.guard.metric("tocsin_feedback_total", model="m")


def test_answers_are_remembered_with_their_question_up_to_a_number_and_labelled_once() -> None:
    labels: list[tuple[str, bool]] = []
    memory = AnswerLabels(NextTurnLabels(remember=2), lambda identifier, safe: labels.append((identifier, safe)))
    for number in range(3):
        memory.remember(Conversation(f"{number}?", "Yes."), f"id-{number}")

    def react(number: int, score: float) -> None:
        turns = (Turn("user", f"{number}?"), Turn("assistant", " Yes."), Turn("user", "so?"))
        memory.on_score(Conversation("", "", turns), score)

    for number, score in ((0, 1.0), (1, 0.5), (1, 0.9), (1, 0.9), (2, 0.1)):
        react(number, score)
    assert labels == [("id-1", False), ("id-2", True)]


def test_labels_without_levels_that_follow_them_are_refused(tmp_path: Path) -> None:
    second = {"judge": {"url": "http://127.0.0.1:9/v1", "model": "judge"}, "opinions": {"next_turn": FEEDBACK}}
    model = {"protocol": "openai", "bundle": tokens_bundle(tmp_path / "m.tocsin"), "second_opinion": second}
    guard = Guard.open(Config(models={"m": model}))
    with pytest.raises(ConfigError, match=r"opinions\.next_turn\.feedback: .* set models\.m\.adapt"):
        questions_of(guard.models["m"])
