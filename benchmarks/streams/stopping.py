"""Stopping in the middle: a promise for each stream, and how early a generation that goes astray is ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.report import Check, console
from benchmarks.streams.answers import Answer
from benchmarks.streams.questions import loops
from benchmarks.streams.signals import by_token, stacked
from tocsin_calibration import Promise, SessionRule, calibrate_sessions
from tocsin_calibration.sessions.windows import Window
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

ALPHA, FAILURE = 0.05, 1e-4
WINDOWS = (1, 2, 4, 8)
BLOCK = 32  # tokens that are looked at together for repetition


class Stream(NamedTuple):
    """One generation: how many tokens, its scores by judgement, tokens covered by each, and where it goes astray."""

    length: int
    scores: np.ndarray  # (judgements, detectors)
    ends: list[int]  # tokens that had come at each judgement
    astray: int | None  # the token, None for a good one


def stop(sequences: Sequence[Answer], stories: Sequence[Answer]) -> tuple[dict[str, Any], list[Check]]:
    """Wrong sequences by surprise and entropy, token by token; loops by repetition, block by block."""
    results, checks = {}, []
    kinds: dict[str, tuple[Sequence[Answer], Callable[[Answer], int | None], list[str], Callable[..., Any]]] = {
        "wrong sequences": (sequences, _first_wrong, ["max_surprisal", "token_entropy"], _by_token),
        "loops": (stories, _first_loop, ["repetition,grams=3"], _by_block),
    }
    for name, (answers, astray, specs, look) in kinds.items():
        results[name], more = _stopped(name, answers, astray, specs, look)
        checks += more
    return results, checks


def _stopped(name: str, answers: Sequence[Answer], astray: Any, specs: list[str], look: Any) -> Any:
    places = [astray(answer) for answer in answers]
    good = [at for at, place in enumerate(places) if place is None]
    bad = [at for at, place in enumerate(places) if place is not None]
    order = np.random.default_rng(9).permutation(good)
    fit, calibration, fresh = (
        order[: len(order) // 6],
        order[len(order) // 6 : 2 * len(order) // 3],
        order[2 * len(order) // 3 :],
    )
    looks = [look(answer) for answer in answers]
    if min(len(fit), len(fresh)) < 5 or len(calibration) < 19 or not bad:
        console.print(f"{name}: {len(good)} good and {len(bad)} bad streams are too few to calibrate and judge")
        return {"good": len(good), "bad": len(bad)}, [Check(f"{name}: streams to judge", len(bad), ">= 1", False)]
    scorer = compile([parse(spec) for spec in specs], fit_on=stacked([looks[at][0] for at in fit]))
    streams = [
        Stream(len(answer.ids), scorer(observed), ends, place)
        for answer, (observed, ends), place in zip(answers, looks, places, strict=True)
    ]
    width = _choose([streams[at] for at in fit])
    rule = SessionRule(Window(width))
    promise = calibrate_sessions(
        [streams[at].scores for at in calibration],
        {"stop": ALPHA},
        session=rule,
        detectors=scorer.detectors,
        on_average=True,
    )
    stops = {at: _stop_of(promise, streams[at]) for at in (*fresh, *bad)}
    false = sum(stops[at] is not None for at in fresh)
    low, high = promise.laws["stop"].count_interval(len(fresh), 1 - FAILURE)
    caught = [at for at in bad if stops[at] is not None]
    tokens = sum(streams[at].length for at in bad)
    saved = sum(streams[at].length - (stops[at] or 0) for at in caught)
    lag = [(stops[at] or 0) - (streams[at].astray or 0) for at in caught]
    figures = {
        "good": len(good), "bad": len(bad), "window": width, "stopped good": f"{false} of {len(fresh)}",
        "stopped bad": len(caught) / len(bad), "tokens saved": saved / tokens,
        "tokens after going astray, median": float(np.median(lag)) if lag else None,
        "stopped before": float(np.mean([delay < 0 for delay in lag])) if lag else None,
    }  # fmt: skip
    table = Table("", "found", title=f"{name}, stopped at alpha {ALPHA:g} a stream")
    for key, value in figures.items():
        table.add_row(key, f"{value:.2f}" if isinstance(value, float) else str(value))
    console.print(table)
    return figures, [
        Check(f"{name}: good streams stopped, by the law", false, f"{low} to {high}", low <= false <= high),
        Check(
            f"{name}: bad streams stopped",
            round(len(caught) / len(bad), 4),
            f"> {ALPHA:g}",
            len(caught) / len(bad) > ALPHA,
        ),
    ]


def _choose(fit: Sequence[Stream]) -> int:
    """The window under which the largest score of good streams stands out least over their usual one; chosen on good
    streams that calibrate nothing.
    """
    spread = {}
    for width in WINDOWS:
        top = [Window(width).rolling(stream.scores[:, 0]).max() for stream in fit]
        usual = [float(np.median(Window(width).rolling(stream.scores[:, 0]))) for stream in fit]
        spread[width] = float((np.quantile(top, 0.95) - np.median(usual)) / (np.std(top) + 1e-9))
    return min(spread, key=lambda width: spread[width])


def _stop_of(promise: Promise, stream: Stream) -> int | None:
    """How many tokens had come when a stream is stopped, None when it is not."""
    assert promise.sessions is not None
    progress = promise.sessions.start()
    severities = promise.judge(stream.scores, sessions=[progress] * len(stream.scores)).severities
    return next((end for end, severity in zip(stream.ends, severities, strict=True) if severity is not None), None)


def _by_token(answer: Answer) -> tuple[Observations, list[int]]:
    return by_token(answer), list(range(1, len(answer.ids) + 1))


def _by_block(answer: Answer) -> tuple[Observations, list[int]]:
    ends = list(range(BLOCK, len(answer.ids) + 1, BLOCK)) or [len(answer.ids)]
    blocks = np.full((len(ends), BLOCK), -1, np.float32)
    for row, end in enumerate(ends):
        block = answer.ids[max(0, end - BLOCK) : end]
        blocks[row, : len(block)] = block
    return Observations({"tokens": blocks}), ends


def _first_wrong(answer: Answer) -> int | None:
    return _token_at(answer, answer.question.strays(answer.text))


def _first_loop(answer: Answer) -> int | None:
    return _token_at(answer, loops(answer.text))


def _token_at(answer: Answer, place: int | None) -> int | None:
    """The token that holds a place of the text."""
    return (
        None if place is None else next((at for at, end in enumerate(answer.ends) if end > place), len(answer.ends) - 1)
    )
