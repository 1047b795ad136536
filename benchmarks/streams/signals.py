"""Answers as detectors read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.streams.answers import Answer
from tocsin.protocols.method import Reader
from tocsin.protocols.paths import signal_path
from tocsin.protocols.protocol import preset
from tocsin.protocols.rows import Family, Kind
from tocsin_detectors import Observations

METHOD = "/vllm.grpc.engine.VllmEngine/Generate"
NO_TOKEN = 1.0  # a log-probability after an answer's end
CHOICES = {"A": [330, 49], "B": [389, 50], "C": [340, 51], "D": [422, 52], "E": [414, 53]}


class _AnyShape:
    """Takes responses as they are."""

    def rows(self, signal: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        return 1, shape

    def width(self, signal: str) -> int:
        return 0

    def misfit(self, signal: str, width: int) -> str:
        return ""

    def family(self, signals: tuple[Kind, ...]) -> Family:
        return Family(None, signals)


def observed(answers: Sequence[Answer], alternatives: int = 5) -> Observations:
    """Whole answers, filled up to the longest."""
    longest = max(len(answer.ids) for answer in answers)
    logprobs = np.full((len(answers), longest), NO_TOKEN, np.float32)
    tops = np.full((len(answers), longest, alternatives), NO_TOKEN, np.float32)
    tokens = np.full((len(answers), longest), -1, np.float32)
    for row, answer in enumerate(answers):
        logprobs[row, : len(answer.ids)] = answer.logprobs
        tops[row, : len(answer.ids)] = answer.top_logprobs[:, :alternatives]
        tokens[row, : len(answer.ids)] = answer.ids
    return Observations({"token_logprobs": logprobs, "top_logprobs": tops, "tokens": tokens})


def by_token(answer: Answer, alternatives: int = 5) -> Observations:
    """An answer's tokens, one a row."""
    tops = answer.top_logprobs[:, None, :alternatives]
    return Observations({"token_logprobs": answer.logprobs[:, None], "top_logprobs": tops})


def stacked(parts: Sequence[Observations]) -> Observations:
    """The rows of several, one behind the other."""
    names = list(parts[0])
    return Observations({n: np.concatenate([part[n].reshape(-1, *part.shape(n)) for part in parts]) for n in names})


def several(answers: Sequence[Answer], samples: int) -> Observations:
    """Answers to the same questions, (questions, samples, ...)."""
    stacked_answers = observed(answers)
    tokens = stacked_answers["tokens"].reshape(len(answers) // samples, samples, -1)
    sums = np.array([answer.logprobs.sum() for answer in answers], np.float32).reshape(-1, samples)
    return Observations({"answer_tokens": tokens, "answer_logprobs": sums})


def choice_reader(ids: Sequence[Sequence[int]]) -> Reader:
    """What the relay reads choices with, by the tokens that say them."""
    path = signal_path({"choices": [list(tokens) for tokens in ids]})
    return preset("vllm")[METHOD].reader({"choice_probs": path}, _AnyShape())


def choice_probs(reader: Reader, answer: Answer) -> NDArray[np.float64]:
    """The probabilities of the choices of one answer, as they were shown."""
    method = preset("vllm")[METHOD]
    opened = [method.open(message, None) for message in answer.messages]
    _, _, (raw,) = reader.read(opened, None)
    return np.frombuffer(raw, np.float32).astype(np.float64)
