"""Pools of real opinions: of a model's usual answers, of a worse model's, and of answers that talk the judge round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import console
from benchmarks.second_opinion.real_judge import CHECKLIST, RATING, Opinions, conversation, opinions, require_judge
from benchmarks.streams import answers as streams
from tocsin.checks.judge import read_pairs
from tocsin.protocols.texts import Conversation
from tocsin_detectors import ATTACKS

OPINIONS: dict[str, dict[str, Any]] = {"rating": RATING, "checklist": CHECKLIST}
USUAL, RIGHT, WRONG, TOKEN = "usual", "right", "wrong", "token"
WORSE, WORSE_BEHIND_TOKEN = "worse", "worse-behind-token"

Pool = NDArray[np.float32]


class Pools(NamedTuple):
    """Scores by opinion and kind of answer, lost ones left out; and the text that talked the judge round best."""

    scores: Mapping[str, Mapping[str, Pool]]
    token: str


def read_pools(folder: Path, count: int) -> Pools:
    """Opinions of `count` answers of each kind, or of those that are not empty. `folder` keeps answers and opinions."""
    folder.mkdir(parents=True, exist_ok=True)
    require_judge()
    path, sets = folder / "answers.parquet", ["short", streams.WORSE]
    streams.rebuild(path, folder / "model", sets, count)
    answers = {
        name: [answer for answer in of_set if answer.text.strip()]
        for name, of_set in streams.read(path, sets, count).items()
    }
    usual, worse = answers["short"], answers[streams.WORSE]
    token = _best_token(folder)
    conversations: dict[str, Sequence[Conversation]] = {
        USUAL: [conversation(answer) for answer in usual],
        RIGHT: [conversation(answer) for answer in usual if answer.right],
        WRONG: [conversation(answer) for answer in usual if not answer.right],
        WORSE: [conversation(answer) for answer in worse],
        TOKEN: [Conversation(answer.question.prompt, token) for answer in usual],
        WORSE_BEHIND_TOKEN: [conversation(answer, f"{token} ") for answer in worse],
    }
    path_of = {kind: folder / f"opinions-{USUAL if kind in (RIGHT, WRONG) else kind}.jsonl" for kind in conversations}
    by_kind = {kind: opinions(path_of[kind], of, OPINIONS, folder) for kind, of in conversations.items()}
    return Pools({name: {kind: _scores(rows, name) for kind, rows in by_kind.items()} for name in OPINIONS}, token)


def _best_token(folder: Path) -> str:
    """The answer that says nothing which the judge rates best, over the questions of `tocsin check judge`."""
    attacks = [attack for attack in ATTACKS if attack.strip()]  # empty answers are not asked about
    questions = [pair.question for pair in read_pairs(None)]
    path = folder / "opinions-attacks.jsonl"
    rows = [Conversation(question, attack) for attack in attacks for question in questions]
    rated = opinions(path, rows, {"rating": RATING}, folder)
    scores = np.array([np.nan if row["rating"] is None else row["rating"] for row in rated])
    shortfall = np.nanmean(scores.reshape(len(attacks), len(questions)), axis=1)
    best = attacks[int(np.nanargmin(shortfall))]
    console.print(
        f"of {len(attacks)} answers that say nothing, the judge rates {best!r} best: {np.nanmin(shortfall):.2f} points "
        f"short of the best rating, where all of them are {np.nanmean(shortfall):.2f} short on average"
    )
    return best


def _scores(rows: Opinions, name: str) -> Pool:
    return np.array([row[name] for row in rows if row[name] is not None], np.float32)
