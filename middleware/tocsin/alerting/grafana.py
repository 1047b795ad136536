"""Alert rules that Grafana evaluates itself, as a file of its provisioning folder, made by Grafana's own builders.

A rule has the three steps that Grafana's importer makes of a rule of Prometheus: the query, which returns a series
where something is wrong; an expression that is 1 for every series, whatever its value is; and a threshold on that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import alerting, expr, prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.alerting import RelativeTimeRange
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from tocsin.alerting.inlining import inlined, recorded
from tocsin.alerting.rule import Alert, Group, as_yaml
from tocsin.errors import ConfigError

QUERY, FIRES, CONDITION = "query", "fires", "condition"
EXPRESSION = DataSourceRef(type_val="__expr__", uid="__expr__")
LOOKBACK = RelativeTimeRange(from_val=600, to=0)  # seconds; instant queries look at its end
EVERY = "1m"
NOT_IN_FILES = ("folderUID", "orgID", "ruleGroup")  # of a rule, which in a file is inside its group
MAX_UID = 40


@dataclass(frozen=True)
class GrafanaOptions:
    """Where the rules go: the UID of the Prometheus data source, a folder, a prefix of the rules' UIDs, and a contact
    point that gets their alerts, past the notification policies; empty: the policies decide.
    """

    datasource: str = "prometheus"
    folder: str = "Tocsin"
    name: str = "tocsin"
    receiver: str = ""


def as_grafana(groups: Sequence[Group], runbooks: str, options: GrafanaOptions) -> str:
    """A file for `provisioning/alerting`. Raises ConfigError where a name makes a UID that Grafana does not take."""
    series = recorded(groups)
    content = {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group.name,
                "folder": options.folder,
                "interval": EVERY,
                "rules": [
                    _rule(rule, inlined(rule.expr, series), runbooks, options)
                    for rule in group.rules
                    if isinstance(rule, Alert)
                ],
            }
            for group in groups
        ],
    }
    return as_yaml(content)


def _rule(alert: Alert, promql: str, runbooks: str, options: GrafanaOptions) -> dict[str, Any]:
    facts = alert.facts(runbooks)
    rule = (
        alerting.Rule(alert.name)
        .uid(_uid(alert.name, options.name))
        .condition(CONDITION)
        .with_query(_step(QUERY, options.datasource, _prometheus(promql, options.datasource)))
        .with_query(_step(FIRES, "__expr__", _every_series()))
        .with_query(_step(CONDITION, "__expr__", _over_zero()))
        .no_data_state("OK")
        .exec_err_state("Error")
        .for_val(alert.lasting)
        .labels(facts["labels"])
        .annotations({name: _template(text) for name, text in facts["annotations"].items()})
    )
    if options.receiver:
        rule = rule.notification_settings(_routed(options.receiver))
    content: dict[str, Any] = json.loads(json.dumps(rule.build(), cls=JSONEncoder))
    return {name: value for name, value in content.items() if name not in NOT_IN_FILES}


def _routed(receiver: str) -> alerting.NotificationSettings:
    return alerting.NotificationSettings().receiver(receiver).group_by(["alertname", "grafana_folder", "model"])


def _step(name: str, source: str, model: Any) -> alerting.Query:
    return alerting.Query(name).datasource_uid(source).relative_time_range(LOOKBACK).model(model.ref_id(name))


def _prometheus(promql: str, source: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(promql).instant()
    return query.datasource(DataSourceRef(type_val="prometheus", uid=source))


def _every_series() -> expr.TypeMath:
    fires = f"is_number(${QUERY}) || is_nan(${QUERY}) || is_inf(${QUERY})"
    return expr.TypeMath().datasource(EXPRESSION).expression(fires)


def _over_zero() -> expr.TypeThreshold:
    evaluator = expr.ExprTypeThresholdConditionsEvaluator().type("gt").params([0])
    condition = expr.ExprTypeThresholdConditions().evaluator(evaluator)
    return expr.TypeThreshold().datasource(EXPRESSION).expression(FIRES).conditions([condition])


def _uid(alert: str, prefix: str) -> str:
    kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", alert.removeprefix("Tocsin")).lower()
    uid = f"{prefix}-{kebab}"
    if not re.fullmatch(rf"[\w-]{{1,{MAX_UID}}}", uid, re.ASCII):
        raise ConfigError(f"--name: '{uid}' is no UID of Grafana, which has up to {MAX_UID} letters, digits, - and _")
    return uid


def _template(text: str) -> str:
    """The same words for Grafana, whose `$value` is a text of all values."""
    return text.replace("$value ", f"$values.{QUERY}.Value ")
