"""Opinions of recorded answers: every opinion of a configuration is asked of every row of a table."""

from __future__ import annotations

import csv
import json
import os
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from tocsin.configuration.opinions import LogSigmoidPart
from tocsin.configuration.second_opinion import SecondOpinionConfig
from tocsin.opinions.judge_model import JudgeModel, PacedJudge
from tocsin.opinions.log_sigmoid import LogSigmoid, part_of
from tocsin.opinions.lost import Lost
from tocsin.opinions.opinion import Opinion
from tocsin.opinions.opinion_scores import opinion_scores
from tocsin.opinions.pace import Pace
from tocsin.opinions.registry import opinion_of
from tocsin.recording.answer_table import AnswerRow

AT_ONCE = 1_000  # rows that are asked about together


class Given(NamedTuple):
    """What was given of a table: rows, scores by opinion, and opinions lost by opinion and reason. `parts` are centers
    and scales of the scores of each opinion that is asked, for sums of log-sigmoids.
    """

    rows: int
    scores: Mapping[str, int]
    lost: Mapping[tuple[str, str], int]
    parts: Mapping[str, LogSigmoidPart]


def paced_judge(config: SecondOpinionConfig, calls_per_minute: int | None = None) -> PacedJudge:
    """The judge of a configuration, within its budget or that of `calls_per_minute`, however long that takes. Raises
    ConfigError as serving does.
    """
    judge = JudgeModel(config.judge, config.timeout.total_seconds(), os.environ)
    pace = Pace(60.0 / (calls_per_minute or config.calls_per_minute))
    return PacedJudge(judge, pace, inf, threading.Event(), lambda seconds: None)


class Asker:
    """Asks the judge of a configuration about rows, within its budget. Raises ConfigError as serving does."""

    def __init__(self, config: SecondOpinionConfig, calls_per_minute: int | None = None) -> None:
        self.opinions: Mapping[str, Opinion | LogSigmoid] = {
            name: opinion_of(of) for name, of in config.opinions.items()
        }
        self._judge = paced_judge(config, calls_per_minute)
        self._concurrent = config.concurrent

    def write(self, rows: Iterable[AnswerRow], out: Path, on_rows: Callable[[int], None] = lambda rows: None) -> Given:
        """Write a row of scores for each row, with its other columns, into a file of CSV or JSON lines. A lost opinion
        is an empty cell. `on_rows` hears how many rows were written.
        """
        count, lost = 0, Counter[tuple[str, str]]()
        scores: dict[str, array[float]] = {name: array("d") for name in self.opinions}
        rest = iter(rows)
        with ThreadPoolExecutor(self._concurrent) as pool, out.open("w", encoding="utf-8", newline="") as file:
            write: Callable[[Mapping[str, Any]], None] | None = None
            while batch := list(islice(rest, AT_ONCE)):
                for row, (given, missing) in zip(batch, pool.map(self._ask, batch), strict=True):
                    write = write or _writer(file, out, [*self.opinions, *row.others])
                    write({**dict.fromkeys(self.opinions), **given, **row.others})
                    count += 1
                    for name, score in given.items():
                        scores[name].append(score)
                    lost.update(list(missing.items()))
                    on_rows(count)
        by_opinion = {name: len(of_opinion) for name, of_opinion in scores.items() if of_opinion}
        return Given(count, by_opinion, lost, self._parts(scores))

    def _parts(self, scores: Mapping[str, array[float]]) -> dict[str, LogSigmoidPart]:
        """Centers and scales of the opinions that are asked, those whose scores differ."""
        names = [name for name, of in self.opinions.items() if scores[name] and not isinstance(of, LogSigmoid)]
        return {name: part for name in names if (part := part_of(scores[name])) is not None}

    def _ask(self, row: AnswerRow) -> tuple[dict[str, float], dict[str, str]]:
        """The scores of one row by opinion, and the reasons of those that were lost."""
        lost: dict[str, str] = {}

        def lose(name: str, why: Lost) -> None:
            lost[name] = why.reason

        return opinion_scores(self.opinions, self._judge, row.conversation, lose), lost


def _writer(file: Any, path: Path, names: list[str]) -> Callable[[Mapping[str, Any]], None]:
    """Writes rows in the form that the file's name says; of CSV, with the columns of the first row."""
    if path.suffix != ".csv":
        return lambda row: file.write(json.dumps(row) + "\n")
    table = csv.DictWriter(file, list(dict.fromkeys(names)), extrasaction="ignore")
    table.writeheader()
    return table.writerow
