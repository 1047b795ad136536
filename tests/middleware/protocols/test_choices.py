"""Claims about several answers to one question: choices are read where they stand, and answers are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.parts import score_by
from tests.middleware.protocols.bundles import bundle_of
from tests.middleware.protocols.vllm_streams import METHOD, chunk, guard, interleaved, judged_pieces

from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.judgement.call import Call
from tocsin.judgement.model import GuardedModel
from tocsin_detectors import Observations

RNG = np.random.default_rng(8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


CHOICES = {"choices": [[330, 49], [389], [41]]}


def test_choices_are_read_where_they_stand(folder: Path) -> None:
    probs = RNG.dirichlet([60, 1, 1], 300).astype(np.float32)
    bundle = bundle_of(folder / "choice.tocsin", ["entropy:choice_probs"], Observations({"choice_probs": probs}))
    by = guard(bundle, signals={"choice_probs": CHOICES})
    sure = [
        chunk(0, 330, -0.1, {330: 0.5, 49: 0.25, 7: 0.2, 41: 0.05}),
        chunk(0, 9, -0.1, {9: 0.97, 1: 0.01, 2: 0.01, 3: 0.01}),
    ]
    call, pieces = judged_pieces(by, sure)
    rows, _, raws = (
        by.models["m"]
        .readers.by_method[METHOD]
        .read([pieces[0].reads.open(m.SerializeToString(), None) for m in sure], None)
    )
    assert rows == 1 and np.frombuffer(raws[0], np.float32) == pytest.approx([0.75 / 0.8, 0, 0.05 / 0.8])
    assert call.verdict is not None and call.verdict.unscored is None
    lost = [chunk(0, 5, -0.1, {5: 0.9, 6: 0.1}), chunk(0, 389, -0.1, {389: 0.6, 41: 0.4})]
    call, _ = judged_pieces(by, lost)
    assert call.verdict is not None and call.verdict.unscored == "missing_signal"
    for at in ("best", 1, -1):
        call, _ = judged_pieces(guard(bundle, signals={"choice_probs": {**CHOICES, "at": at}}), lost)
        assert call.verdict is not None and call.verdict.severity == "warning"
    call, _ = judged_pieces(guard(bundle, signals={"choice_probs": {**CHOICES, "at": 2}}), lost)
    assert call.verdict is not None and call.verdict.unscored == "missing_signal"


def test_choices_in_several_orders_are_averaged_over_a_question(folder: Path) -> None:
    safe = Observations({"choice_probs": RNG.dirichlet([60, 1, 1], 300).astype(np.float32)})
    bundle = bundle_of(folder / "orders.tocsin", ["entropy:choice_probs"], safe)
    signals = {"choice_probs": {"choices": [[1], [2], [3]], "order": "metadata.x-order"}}
    by = guard(bundle, signals=signals, session="metadata.x-question", shadow=bundle)
    observed: list[np.ndarray] = []
    shadowed: list[np.ndarray] = []

    def note(model: GuardedModel, noted: list[np.ndarray]) -> None:
        assert model.scoring is not None
        scorer = model.scoring.scorer
        run = scorer.run

        def noting(signals: Any) -> Any:
            noted.append(signals["choice_probs"][0])
            return run(signals)

        score_by(scorer, noting)

    assert by.models["m"].shadow is not None
    note(by.models["m"], observed)
    note(by.models["m"].shadow, shadowed)

    def ask(order: str, *probs: float, question: str = "q1") -> Call:
        call = by.call(METHOD, {"x-order": order, "x-question": question})
        assert call is not None
        call.on_response_message(chunk(0, 1, -0.1, dict(zip((1, 2, 3), probs, strict=True))).SerializeToString())
        pieces = call.ended()
        by.judge(pieces)
        by.shadow(pieces)
        return call

    ask("", 0.7, 0.2, 0.1)
    ask("2,0,1", 0.6, 0.3, 0.1)  # the place shown first holds choice 2
    ask("1,0,2", 0.5, 0.4, 0.1, question="q2")
    assert observed[0] == pytest.approx([0.7, 0.2, 0.1])
    assert observed[1] == pytest.approx([(0.7 + 0.3) / 2, (0.2 + 0.1) / 2, (0.1 + 0.6) / 2])
    assert observed[2] == pytest.approx([0.4, 0.5, 0.1])
    assert np.array(shadowed) == pytest.approx(np.array(observed))
    for wrong in ("0,1", "0,0,1", "a,b,c", "0,1,2,x"):
        verdict = ask(wrong, 0.7, 0.2, 0.1).verdict
        assert verdict is not None and verdict.unscored == "shape"


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": [[1]]},
        {"choices": "AB"},
        {"choices": [[1], []]},
        {**CHOICES, "at": "end"},
        {**CHOICES, "of": 1},
        {**CHOICES, "order": "request.x"},
    ],
)
def test_choices_that_are_none_are_told(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="write choices as"):
        Config(models={"m": {"protocol": "vllm", "signals": {"choice_probs": wrong}}})
    with pytest.raises(ConfigError, match="nothing says where the likeliest tokens"):
        guard(folder / "choice.tocsin", protocol="tei", signals={"choice_probs": CHOICES})


def test_answers_to_one_question_are_compared(folder: Path) -> None:
    words = [RNG.integers(0, 5, 4).tolist() for _ in range(300)]  # of one vocabulary, so that answers agree
    answers = np.array(
        [
            [sorted(words_of_answer), sorted(words_of_answer), [*sorted(words_of_answer[:3]), -1]]
            for words_of_answer in words
        ],
        np.float32,
    )
    sums = -RNG.uniform(0.5, 1, (300, 3))
    safe = Observations({"answer_tokens": answers, "answer_logprobs": sums})
    bundle = bundle_of(folder / "several.tocsin", ["lexical_disagreement", "predictive_entropy"], safe)
    signals = {
        "answer_tokens": {"sequences": "response.chunk.token_ids | response.complete.output_ids"},
        "answer_logprobs": {"sequences": "response.chunk.output_logprobs.token_logprobs", "sum": True},
    }
    by = guard(bundle, signals=signals)
    alike = interleaved([-0.2] * 4, [-0.2] * 4, [-0.2] * 3)
    call, pieces = judged_pieces(by, alike)
    assert len(pieces) == 1 and call.verdict is not None and call.verdict.severity is None
    opened = [pieces[0].reads.open(m.SerializeToString(), None) for m in alike]
    _, family, (tokens, logprobs) = by.models["m"].readers.by_method[METHOD].read(opened, None)
    assert family.shapes["answer_tokens"] == (3, 4)
    assert np.frombuffer(tokens, np.float32).reshape(3, 4)[2].tolist() == [0, 1, 2, -1]
    assert np.frombuffer(logprobs, np.float32) == pytest.approx([-0.8, -0.8, -0.6])
    apart = [chunk(index, 10 * index + at, -3.0) for at in range(4) for index in range(3)]
    call, _ = judged_pieces(by, apart)
    assert call.verdict is not None and call.verdict.severity == "warning"
    call, _ = judged_pieces(by, interleaved([-0.2] * 4, [-0.2] * 4))  # the detectors want three
    assert call.verdict is not None and call.verdict.unscored == "shape"
