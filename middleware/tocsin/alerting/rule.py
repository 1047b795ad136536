"""Rules of Prometheus, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

Urgency = Literal["critical", "warning", "info"]  # wakes somebody; is looked at in office hours; when there is time
MANIFEST = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule"}


@dataclass(frozen=True)
class RecordingRule:
    """A series that Prometheus computes and stores."""

    name: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)

    def facts(self, runbooks: str) -> dict[str, Any]:
        """The rule as Prometheus reads it; `runbooks` is the address of their folder."""
        del runbooks
        content: dict[str, Any] = {"record": self.name, "expr": self.expr}
        return content | ({"labels": self.labels} if self.labels else {})


@dataclass(frozen=True)
class Alert:
    """A condition to report, and the page that says what to do about it."""

    name: str
    urgency: Urgency
    expr: str
    summary: str
    description: str
    runbook: str
    lasting: str = "0m"

    def facts(self, runbooks: str) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasting,
            "labels": {"severity": self.urgency},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbooks.rstrip('/')}/{self.runbook}.md",
            },
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, in order."""

    name: str
    rules: Sequence[RecordingRule | Alert]


def as_file(groups: Sequence[Group], runbooks: str) -> str:
    """A file of rules, as `rule_files` of Prometheus reads it; `runbooks` is where their pages are."""
    return as_yaml(_groups(groups, runbooks))


def as_manifest(groups: Sequence[Group], runbooks: str, name: str, labels: dict[str, str]) -> str:
    """A PrometheusRule, as the Prometheus operator reads it."""
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = labels
    return as_yaml({**MANIFEST, "metadata": metadata, "spec": _groups(groups, runbooks)})


def as_values(groups: Sequence[Group], runbooks: str, labels: dict[str, str]) -> str:
    """Values for the Helm chart, which makes a PrometheusRule of them."""
    rules: dict[str, Any] = {"enabled": True, **({"labels": labels} if labels else {}), **_groups(groups, runbooks)}
    return as_yaml({"prometheusRule": rules})


def _groups(groups: Sequence[Group], runbooks: str) -> dict[str, Any]:
    return {"groups": [{"name": g.name, "rules": [rule.facts(runbooks) for rule in g.rules]} for g in groups]}


def as_yaml(content: dict[str, Any]) -> str:
    """YAML that keeps expressions of several lines as they are."""
    text: str = yaml.dump(content, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
    return text


class _Plain(yaml.SafeDumper):
    """Keeps expressions of several lines as they are."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _string)
