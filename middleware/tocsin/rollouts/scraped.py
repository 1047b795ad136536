"""The counters of a canary and of a stable version, scraped from their sidecars."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Mapping

from tocsin.errors import CheckError
from tocsin.rollouts.counters import CounterSample
from tocsin.rollouts.names import ALARMS, BEGAN, SHADOW, TOTAL, UNSCORED, pair_columns

SCRAPE_TIMEOUT = 30.0  # seconds for an answer


def read_counters(address: str, model: str | None, severity: str, headers: Mapping[str, str]) -> CounterSample:
    """The counters (alarms, responses, unscored responses) of one sidecar since its start.

    Raises CheckError when it cannot be scraped, or has no such model or severity.
    """
    alarms, total, unscored = 0.0, 0.0, 0.0
    began, models, severities = None, set(), set()
    for name, labels, value in _samples(address, headers):
        if name == BEGAN:
            began = value
        if name not in (TOTAL, ALARMS, UNSCORED):
            continue
        if model is not None and labels.get("model") != model:
            models.add(labels.get("model", ""))
            continue
        if name == TOTAL:
            models.add(labels.get("model", ""))
            total += value
        elif name == ALARMS:
            severities.add(labels.get("severity", ""))
            alarms += value if labels.get("severity") == severity else 0.0
        elif labels.get("reason") != "no_bundle":
            unscored += value
    if not severities:
        raise CheckError(f"{address}: guards no model '{model}'" if model else f"{address}: guards no model")
    if model is None and len(models) > 1:
        raise CheckError(f"{address}: guards several models ({', '.join(sorted(models))}): choose one with --model")
    if severity not in severities:
        raise CheckError(f"{address}: has no alarms of severity '{severity}', but of {', '.join(sorted(severities))}")
    return CounterSample(time.time(), (alarms, total, unscored), began)


def scraped_pairs(address: str, model: str | None, severe: frozenset[str], headers: Mapping[str, str]) -> CounterSample:
    """Counters of pairs (`pair_columns`) of one sidecar."""
    counts, began, models = [0.0] * 5, None, set()
    for name, labels, value in _samples(address, headers):
        if name == BEGAN:
            began = value
        if name != SHADOW or (model is not None and labels.get("model") != model):
            continue
        models.add(labels.get("model", ""))
        for column, counted in enumerate(pair_columns(labels, severe)):
            counts[column] += counted * value
    if len(models) != 1:
        raise CheckError(
            f"{address}: has several models with a candidate bundle: choose one with --model"
            if models
            else f"{address}: no candidate bundle has judged anything there (shadow:)"
        )
    return CounterSample(time.time(), tuple(counts), began)


def alphas_of(address: str, headers: Mapping[str, str], model: str | None) -> dict[str, float]:
    """Promised rates by severity."""
    return {
        labels.get("severity", ""): value
        for name, labels, value in _samples(address, headers)
        if name == "tocsin_alpha" and model in (None, labels.get("model"))
    }


def _samples(address: str, headers: Mapping[str, str]) -> list[tuple[str, dict[str, str], float]]:
    """The samples at a metrics address. Raises CheckError."""
    from prometheus_client.parser import text_string_to_metric_families

    url = address if "://" in address else f"http://{address}"
    url = url if url.partition("://")[2].partition("/")[2] else f"{url.rstrip('/')}/metrics"
    request = urllib.request.Request(url, headers={"Accept": "text/plain", **headers})
    try:
        with urllib.request.urlopen(request, timeout=SCRAPE_TIMEOUT) as answer:
            text = answer.read().decode("utf-8")
        families = list(text_string_to_metric_families(text))
    except (OSError, ValueError) as error:
        raise CheckError(f"{address}: cannot be scraped ({getattr(error, 'reason', error)})") from None
    return [(sample.name, dict(sample.labels), float(sample.value)) for family in families for sample in family.samples]
