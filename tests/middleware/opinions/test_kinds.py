"""Claims about opinions: what each asks, what its score is, and which replies are none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.judge_server import judge_server
from pydantic import TypeAdapter

from tocsin.configuration.opinions import OpinionConfig
from tocsin.errors import ConfigError
from tocsin.opinions.log_sigmoid import LogSigmoid
from tocsin.opinions.lost import Lost
from tocsin.opinions.opinion import Opinion
from tocsin.opinions.prompt import Prompt, read_prompt
from tocsin.opinions.registry import OPINIONS, opinion_of
from tocsin.protocols.texts import Conversation, Turn

CONVERSATION = Conversation("2 + 2?", "5, see {question}")


class Scripted:
    """A judge that answers by a function of the prompt."""

    def __init__(self, first: Any = None, text: str = "") -> None:
        self._first, self._text = first, text
        self.prompts: list[str] = []

    def first_token(self, prompt: str) -> Mapping[str, float]:
        self.prompts.append(prompt)
        tokens = self._first(prompt) if callable(self._first) else self._first
        return {token: math.log(p) for token, p in tokens.items()}

    def text(self, prompt: str, tokens: int) -> str:
        self.prompts.append(prompt)
        return self._text

    def continuation(self, before: str, text: str) -> float:
        self.prompts.append(before + text)
        return float(self._first(before, text))


def opinion(**settings: Any) -> Opinion:
    config: OpinionConfig = TypeAdapter(OpinionConfig).validate_python(settings)
    made_of = opinion_of(config)
    assert not isinstance(made_of, LogSigmoid)
    return made_of


def test_every_kind_of_the_configuration_is_there() -> None:
    kinds = {
        "rating", "rubric", "checklist", "persona", "reference", "dissatisfaction", "follow_up", "density_ratio",
        "log_sigmoid",
    }  # fmt: skip
    assert set(OPINIONS) == kinds and all(OPINIONS[kind].source for kind in kinds)  # type: ignore[attr-defined]


def test_a_rating_is_the_points_that_its_expectation_falls_short() -> None:
    judge = Scripted({"5": 0.5, "4": 0.25, "1": 0.05, "The": 0.2})
    score = opinion(kind="rating").ask(judge, CONVERSATION)
    assert score == pytest.approx((0.25 * 1 + 0.05 * 4) / 0.8)
    assert "5, see {question}" in judge.prompts[0]  # what is filled in is not filled in again
    entropy = opinion(kind="rating", score="entropy").ask(Scripted({"1": 0.5, "5": 0.5}), CONVERSATION)
    assert entropy == pytest.approx(math.log(2))


@pytest.mark.parametrize("tokens", [{"The": 1.0}, {"5": 0.05, "The": 0.9}])
def test_a_judge_that_mostly_says_something_else_gives_no_rating(tokens: Mapping[str, float]) -> None:
    with pytest.raises(Lost, match="probability") as lost:
        opinion(kind="rating").ask(Scripted(tokens), CONVERSATION)
    assert lost.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("text", "score"),
    [("Good. [RESULT] 4", 1), ("[RESULT] 1 was my first thought. [RESULT]: (5)", 0), ("[RESULT] Score: 2", 3)],
)
def test_a_rubric_takes_the_last_result(tmp_path: Path, text: str, score: float) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Is it true? 1: no. 5: yes.")
    judge = Scripted(text=text)
    assert opinion(kind="rubric", rubric=rubric).ask(judge, CONVERSATION) == score
    assert "Is it true? 1: no. 5: yes." in judge.prompts[0]


@pytest.mark.parametrize("text", ["", "4", "[RESULT] 6", "[RESULT] 0", "[RESULT] none", f"[RESULT] {'9' * 5_000}"])
def test_a_rubric_without_a_result_is_unreadable(tmp_path: Path, text: str) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Is it true?")
    with pytest.raises(Lost) as lost:
        opinion(kind="rubric", rubric=rubric).ask(Scripted(text=text), CONVERSATION)
    assert lost.value.reason == "unreadable"


def test_a_checklist_is_the_expected_share_of_no() -> None:
    judge = Scripted(lambda prompt: {"yes": 0.9, "No": 0.1} if "polite" in prompt else {"Yes": 0.2, "no": 0.6})
    score = opinion(kind="checklist", questions=["Is it polite?", "Is it true?"]).ask(judge, CONVERSATION)
    assert score == pytest.approx((0.1 + 0.75) / 2)
    assert len(judge.prompts) == 2


def test_questions_of_a_file_are_as_those_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "checks.txt"
    path.write_text("# written by a judge\n\nIs it polite?\n  Is it true?\n")
    judge = Scripted({"yes": 0.6, "no": 0.4})
    assert opinion(kind="checklist", questions_file=path).ask(judge, CONVERSATION) == pytest.approx(0.4)
    assert ["Is it polite?" in judge.prompts[0], "Is it true?" in judge.prompts[1]] == [True, True]
    path.write_text("# nothing is left\n")
    with pytest.raises(ConfigError, match="1 to 50 questions"):
        opinion(kind="checklist", questions_file=path)
    for neither_or_both in ({}, {"questions": ["Is it true?"], "questions_file": path}):
        with pytest.raises(ValueError, match="either questions or questions_file"):
            opinion(kind="checklist", **neither_or_both)


def test_a_persona_is_the_probability_that_the_answer_does_not_keep_to_it(tmp_path: Path) -> None:
    path = tmp_path / "persona.txt"
    path.write_text("You are Ada, a librarian. You {never} give medical advice.\n")
    judge = Scripted({"no": 0.3, "Yes": 0.6, "It": 0.1})
    assert opinion(kind="persona", persona=path).ask(judge, CONVERSATION) == pytest.approx(0.3 / 0.9)
    assert "You are Ada, a librarian. You {never} give" in judge.prompts[0] and "5, see" in judge.prompts[0]
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="describes no persona"):
        opinion(kind="persona", persona=path)


def test_a_reference_is_compared_in_both_orders_so_that_a_place_is_no_preference(tmp_path: Path) -> None:
    references = tmp_path / "references.jsonl"
    references.write_text('{"question": "2 + 2?", "answer": "4"}\n\n')
    by_place = Scripted({"A": 0.9, "B": 0.1})
    assert opinion(kind="reference", references=references).ask(by_place, CONVERSATION) == pytest.approx(0.5)
    knows = Scripted(lambda prompt: {"A": 0.9, "B": 0.1} if "A: 4" in prompt else {"B": 0.8, "A": 0.2})
    assert opinion(kind="reference", references=references).ask(knows, CONVERSATION) == pytest.approx(0.85)
    with pytest.raises(Lost) as lost:
        opinion(kind="reference", references=references).ask(knows, Conversation("3 + 3?", "6"))
    assert lost.value.reason == "no_reference"


def test_without_references_the_judge_answers_first() -> None:
    judge = Scripted({"A": 0.5, "B": 0.5}, text=" 4 ")
    assert opinion(kind="reference").ask(judge, CONVERSATION) == 0.5
    assert judge.prompts[0] == "2 + 2?" and len(judge.prompts) == 3 and "A: 4\n" in judge.prompts[2]


def test_a_follow_up_compares_what_displeased_and_pleased_users_would_say() -> None:
    likely = {" No.": -3.0, " Wrong.": -5.0, " Thanks.": -1.0}
    judge = Scripted(lambda before, text: likely[text])
    score = opinion(kind="follow_up", displeased=["No.", "Wrong."], pleased=["Thanks."]).ask(judge, CONVERSATION)
    assert score == pytest.approx(-4 + 1)
    assert judge.prompts[0] == "User: 2 + 2?\nAssistant: 5, see {question}\nUser: No."


def echoed(prompt: str, nats: float) -> bytes:
    """A completion that echoes its prompt, word by word with the blanks before, each with a log-probability, and adds a
    token.
    """
    offsets = [0, *(at for at, character in enumerate(prompt) if character in " \n"), len(prompt)]
    logprobs = {"text_offset": offsets, "token_logprobs": [None, *[-nats] * (len(offsets) - 1)]}
    return json.dumps({"choices": [{"text": prompt, "logprobs": logprobs}]}).encode()


def test_a_density_ratio_compares_two_models_by_the_tokens_of_the_answer_alone() -> None:
    with judge_server(lambda prompt: echoed(prompt, 3.0)) as worse:
        ratio = opinion(kind="density_ratio", worse={"url": worse.url, "model": "worse"})
        judge = Scripted(lambda before, text: -1.0 * len(text.split()))
        score = ratio.ask(judge, Conversation("2 + 2?", "It is 4."))
    assert worse.prompts == ["User: 2 + 2?\nAssistant: It is 4."] == judge.prompts
    assert score == pytest.approx((-9 + 3) / len(" It is 4."))


@pytest.mark.parametrize(
    "reply", ["no echo", b'{"choices": [{"logprobs": {"text_offset": [0], "token_logprobs": []}}]}']
)
def test_a_server_that_echoes_no_prompt_is_unreadable(reply: Any) -> None:
    with judge_server(lambda prompt: reply) as server:
        ratio = opinion(kind="density_ratio", worse={"url": server.url, "model": "worse"})
        with pytest.raises(Lost) as lost:
            ratio.ask(Scripted(lambda before, text: 0.0), CONVERSATION)
    assert lost.value.reason == "unreadable"


def test_dissatisfaction_is_about_the_answer_before_the_users_turn() -> None:
    turns = (
        Turn("system", "Be short."), Turn("user", "2 + 2?"), Turn("assistant", "5"), Turn("user", "No, that is wrong."),
    )  # fmt: skip
    judge = Scripted({"Yes": 0.6, "no": 0.2, "The": 0.2})
    score = opinion(kind="dissatisfaction").ask(judge, Conversation("all of them", "Sorry: 4", turns))
    assert score == pytest.approx(0.75)
    assert "asked: 2 + 2?\nAn assistant answered: 5\nThen the user said: No, that is wrong." in judge.prompts[0]
    assert "Sorry" not in judge.prompts[0]


@pytest.mark.parametrize(
    "turns",
    [(), (Turn("system", "Be short."), Turn("user", "hi")), (Turn("user", "hi"), Turn("assistant", "hello"))],
    ids=["one message", "no answer yet", "ends with an answer"],
)
def test_where_nobody_reacts_to_an_answer_dissatisfaction_is_not_asked_about(turns: tuple[Turn, ...]) -> None:
    judge = Scripted({"Yes": 1.0})
    with pytest.raises(Lost) as lost:
        opinion(kind="dissatisfaction").ask(judge, Conversation("hi", "hello", turns))
    assert lost.value.reason == "no_next_turn" and not judge.prompts


@pytest.mark.parametrize(
    ("text", "problem"),
    [("Rate {answr}", "{answr} is not filled in"), ("Rate it", "must say where {answer} goes")],
)
def test_a_prompt_that_cannot_be_filled_in_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem.replace("{", r"\{").replace("}", r"\}")):
        read_prompt(path, "", ["answer"], ["question"])


def test_braces_around_anything_but_a_name_stay() -> None:
    assert Prompt('{"a": {answer}} {0} {a.b}').fill(answer="x") == '{"a": x} {0} {a.b}'


@pytest.mark.parametrize("content", ["", "4\n", '{"question": "2 + 2?"}\n', "not JSON\n"])
def test_references_that_cannot_be_read_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        opinion(kind="reference", references=path)
