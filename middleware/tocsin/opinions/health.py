"""Counts of second opinions, as plain data and as Prometheus families."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import isnan

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.opinions.diversity import Diversity
from tocsin.opinions.lost import REASONS
from tocsin_calibration.evaluation.agreement import RatingSums
from tocsin_calibration.evaluation.intraclass import RaterSums

Facts = dict[str, dict[str, int]]  # metric -> label values, joined -> number

SEPARATOR = "\x1f"  # between label values
GIVEN, LOST, CALLS = "opinions_given", "opinions_lost", "judge_calls"
MICROSECONDS = "judge_microseconds"
WAITING = "opinions_waiting"
AGREEMENT = "judge_agreement"  # the sums that alpha is made of: those of several workers add up
INTRACLASS = "judge_intraclass"  # likewise those of the intraclass correlation
DIVERSITY = "answer_diversity"
JUDGE = "judge"  # and its number: the name of one judge's sum
MILLION = 1_000_000
LASTING = (GIVEN, LOST, CALLS, MICROSECONDS)


class OpinionCounts:
    """Counts by metric and label values. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Facts = {name: {} for name in LASTING}

    def add(self, metric: str, *labels: str, number: int = 1) -> None:
        """Add to one count."""
        label = SEPARATOR.join(labels)
        with self._lock:
            counts = self._counts[metric]
            counts[label] = counts.get(label, 0) + number

    def expect(self, model: str, opinions: Mapping[str, Sequence[str]], drawn: Sequence[str]) -> None:
        """Show every count that a model can have from its first scrape on; `opinions` are the severities of each."""
        for opinion, severities in opinions.items():
            for reason in REASONS:
                self.add(LOST, model, opinion, reason, number=0)
            for by, severity in product(drawn, severities):
                self.add(GIVEN, model, opinion, by, severity, number=0)
        self.add(CALLS, model, number=0)
        self.add(MICROSECONDS, model, number=0)

    def facts(self) -> Facts:
        """A copy of all counts."""
        with self._lock:
            return {metric: dict(counts) for metric, counts in self._counts.items()}


def families(of: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
    """Facts as Prometheus families."""
    given = CounterMetricFamily(
        "tocsin_second_opinions",
        "Opinions that a judge gave, by what drew the call and the severity of the score.",
        labels=["model", "opinion", "drawn", "severity"],
    )
    lost = CounterMetricFamily(
        "tocsin_second_opinions_lost", "Opinions that were not given.", labels=["model", "opinion", "reason"]
    )
    calls = CounterMetricFamily("tocsin_judge_calls", "Calls of the judge, answered or not.", labels=["model"])
    seconds = CounterMetricFamily("tocsin_judge_seconds", "Seconds that calls of the judge took.", labels=["model"])
    waiting = GaugeMetricFamily(
        "tocsin_second_opinions_waiting", "Calls that wait to be asked about.", labels=["model"]
    )
    for metric, family in ((GIVEN, given), (LOST, lost), (CALLS, calls), (MICROSECONDS, seconds), (WAITING, waiting)):
        for label, number in of.get(metric, {}).items():
            value = number / 1e6 if metric == MICROSECONDS else number
            family.add_metric(label.split(SEPARATOR), value)
        yield family
    yield from _agreement(of.get(AGREEMENT, {}))
    yield from _intraclass(of.get(INTRACLASS, {}))
    yield from _diversity(of.get(DIVERSITY, {}))


def agreement_facts(model: str, sums: Mapping[str, RatingSums]) -> dict[str, int]:
    """The sums of each opinion as facts: whole numbers, in millionths."""
    return {
        SEPARATOR.join((model, opinion, name)): round(value * MILLION)
        for opinion, of_opinion in sums.items()
        for name, value in of_opinion._asdict().items()
    }


def intraclass_facts(model: str, sums: Mapping[str, RaterSums]) -> dict[str, int]:
    """The sums of each opinion by judge as facts: whole numbers, in millionths."""
    facts: dict[str, int] = {}
    for opinion, of_opinion in sums.items():
        values = {"items": of_opinion.items, "squares": of_opinion.squares, "item_squares": of_opinion.item_squares}
        values |= {f"{JUDGE}{at}": total for at, total in enumerate(of_opinion.by_rater)}
        facts |= {SEPARATOR.join((model, opinion, name)): round(value * MILLION) for name, value in values.items()}
    return facts


def diversity_facts(model: str, diversity: Diversity) -> dict[str, int]:
    """The diversity of a model's answers as facts, in millionths."""
    return {SEPARATOR.join((model, name)): round(value * MILLION) for name, value in diversity._asdict().items()}


def _diversity(facts: Mapping[str, int]) -> Iterable[Metric]:
    score = GaugeMetricFamily(
        "tocsin_answer_diversity",
        "The Vendi score of the latest drawn answers: how many different ones they amount to; the mean of all workers.",
        labels=["model"],
    )
    answers = GaugeMetricFamily(
        "tocsin_answer_diversity_answers", "Answers that tocsin_answer_diversity compares.", labels=["model"]
    )
    by_model: dict[str, dict[str, int]] = {}
    for label, number in facts.items():
        model, name = label.split(SEPARATOR)
        by_model.setdefault(model, {})[name] = number
    for model, sums in by_model.items():
        score.add_metric([model], sums["score"] / sums["windows"])
        answers.add_metric([model], sums["answers"] / sums["windows"])
    yield from (score, answers)


def _agreement(facts: Mapping[str, int]) -> Iterable[Metric]:
    agreement = GaugeMetricFamily(
        "tocsin_judge_agreement",
        "Krippendorff's alpha (interval) of the scores of the latest calls that several judges were asked about.",
        labels=["model", "opinion"],
    )
    calls = GaugeMetricFamily(
        "tocsin_judge_agreement_calls",
        "Calls that tocsin_judge_agreement is reckoned from.",
        labels=["model", "opinion"],
    )
    for labels, values in _by_opinion(facts).items():
        sums = RatingSums(**values)  # type: ignore[arg-type]
        calls.add_metric(labels, sums.items)
        if not isnan(sums.alpha):
            agreement.add_metric(labels, sums.alpha)
    yield from (agreement, calls)


def _intraclass(facts: Mapping[str, int]) -> Iterable[Metric]:
    correlation = GaugeMetricFamily(
        "tocsin_judge_intraclass_correlation",
        "ICC(2,1) of the scores of the latest calls that every judge has scored.",
        labels=["model", "opinion"],
    )
    for labels, values in _by_opinion(facts).items():
        judges = tuple(values[f"{JUDGE}{at}"] for at in range(len(values)) if f"{JUDGE}{at}" in values)
        sums = RaterSums(round(values["items"]), judges, values["squares"], values["item_squares"])
        if not isnan(sums.agreement):
            correlation.add_metric(labels, sums.agreement)
    yield correlation


def _by_opinion(facts: Mapping[str, int]) -> dict[tuple[str, str], dict[str, float]]:
    """Facts that are told in millionths, by model and opinion, and then by their own names."""
    by_opinion: dict[tuple[str, str], dict[str, float]] = {}
    for label, number in facts.items():
        model, opinion, name = label.split(SEPARATOR)
        by_opinion.setdefault((model, opinion), {})[name] = number / MILLION
    return by_opinion


def lasting_facts(of: Mapping[str, Mapping[str, int]]) -> Facts:
    """What stays of the facts of a process that has ended: what it counted."""
    return {name: dict(of[name]) for name in LASTING if name in of}
