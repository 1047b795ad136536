"""The gate as resources for Argo Rollouts and Flagger: evidence in PromQL, and the limits that decide."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

from tocsin.alerting.rule import as_yaml
from tocsin.rollouts.promql import Compared, log_evalue

Kind = Literal["argo", "flagger"]
# By default the versions are distinguished as these controllers label their pods.
MATCHERS: dict[Kind, tuple[str, str]] = {
    "argo": (
        'rollouts_pod_template_hash="{{args.canary-hash}}"',
        'rollouts_pod_template_hash="{{args.stable-hash}}"',
    ),
    "flagger": (
        'namespace="{{ namespace }}",pod=~"{{ target }}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)"',
        'namespace="{{ namespace }}",pod=~"{{ target }}-primary-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)"',
    ),
}
_ARGUMENT = re.compile(r"\{\{\s*args\.([\w-]+)\s*\}\}")

ARGO = """\
# {abort}: name it under `analysis` of the rollout's canary strategy (a background analysis). It aborts the rollout
# once the canary is shown to alarm more often than it may; by chance with probability at most {delta:g}, ever.
# {promote}: name it in an analysis step. The step waits for evidence that the canary does not alarm {excess:g} times as
# often, which is wrong with probability at most {beta:g}; without it the rollout pauses for somebody to decide.
# `consecutiveSuccessLimit` needs Argo Rollouts 1.8. Evidence covers {within:.0f} h: a canary that has been there for
# longer gives NaN, and pauses the rollout.
"""
FLAGGER = """\
# In the Canary's analysis, with `threshold: 1`, so that the first crossing rolls back:
#   metrics:
#     - name: {abort}
#       templateRef: {{name: {abort}}}
#       thresholdRange: {{max: {limit:.4f}}}
#       interval: {every}s
# It rolls back once the canary is shown to alarm more often than it may; by chance with probability at most {delta:g},
# ever. Evidence covers {within:.0f} h, and is missing for a canary that has been there for longer.
"""


def argo(compared: Compared, limits: dict[str, float], address: str, wait: float) -> str:
    """Two AnalysisTemplates: one aborts in the background, one waits up to `wait` seconds for the evidence to promote.

    `limits`: the logs of evidence for `abort` and `promote`, with the delta, beta and excess behind them.
    """
    names = _names(compared.model)
    words = "\n".join(filter(None, [compared.canary, compared.stable]))
    arguments = [{"name": name} for name in dict.fromkeys(_ARGUMENT.findall(words))]
    interval = f"{compared.every}s"
    abort = {
        "name": "evidence-against-the-canary",
        "interval": interval,
        "successCondition": f"result[0] < {limits['abort']:.4f}",
        "failureCondition": f"result[0] >= {limits['abort']:.4f}",
        "provider": {"prometheus": {"address": address, "query": log_evalue(compared, 1.0, "above")}},
    }
    promote = {
        "name": "evidence-for-the-canary",
        "interval": interval,
        "count": max(1, round(wait / compared.every)),
        "successCondition": f"result[0] >= {limits['promote']:.4f}",
        "failureLimit": -1,
        "consecutiveSuccessLimit": 1,
        "provider": {"prometheus": {"address": address, "query": log_evalue(compared, limits["excess"], "below")}},
    }
    manifests = []
    for name, metric in zip(names, (abort, promote), strict=True):
        spec: dict[str, Any] = {**({"args": arguments} if arguments else {}), "metrics": [metric]}
        manifests.append(_manifest("argoproj.io/v1alpha1", "AnalysisTemplate", name, spec))
    head = ARGO.format(abort=names[0], promote=names[1], within=compared.within / 3600, **_terms(limits))
    return head + "---\n".join(manifests)


def flagger(compared: Compared, limits: dict[str, float], address: str) -> str:
    """A MetricTemplate of the evidence against the canary."""
    name, _ = _names(compared.model)
    spec = {"provider": {"type": "prometheus", "address": address}, "query": log_evalue(compared, 1.0, "above")}
    head = FLAGGER.format(
        abort=name, limit=limits["abort"], every=compared.every, within=compared.within / 3600, **_terms(limits)
    )
    return head + _manifest("flagger.app/v1beta1", "MetricTemplate", name, spec)


def with_defaults(compared: Compared, kind: Kind) -> Compared:
    """The comparison, with the labels that the controller gives to pods where no labels were named."""
    canary, stable = MATCHERS[kind]
    if compared.rate is not None:
        return replace(compared, canary=compared.canary or canary, stable=None)
    return replace(compared, canary=compared.canary or canary, stable=compared.stable or stable)


def _terms(limits: dict[str, float]) -> dict[str, float]:
    return {name: limits[name] for name in ("delta", "beta", "excess")}


def _manifest(version: str, kind: str, name: str, spec: dict[str, Any]) -> str:
    return as_yaml({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})


def _names(model: str) -> tuple[str, str]:
    """Names of resources, which allow fewer characters than a model's name."""
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40] or "model"
    return f"tocsin-{plain}-abort", f"tocsin-{plain}-promote"
