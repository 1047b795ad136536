"""Claims about rules that Grafana evaluates: the same alerts, each by one query, in the shape of Grafana's files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grafana_foundation_sdk.models.alerting as grafana
import pytest
import yaml
from benchmarks.harness.parts import SIGNALS, quick_bundle
from tests.middleware.alerting.test_rules import (
    ALONGSIDE,
    DISTURBED,
    GONE_LATER,
    PROMISE,
    SELDOM,
    alerts,
    in_namespace,
    unit_test,
    written,
)
from typer.testing import CliRunner

from tocsin.cli.main import app

ROOT = Path(__file__).parents[3]
RATE = ["--upstream-rate", "sum by (namespace) (rate(nv_inference_request_success[5m]))", "--by", "namespace"]


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one of which has other limits: expressions then name models."""
    folder = tmp_path_factory.mktemp("grafana")
    for name in ("digits", "next"):
        quick_bundle(folder / f"{name}.tocsin")
    model = {"bundle": "digits.tocsin", "signals": SIGNALS}
    models = {"digits": {**model, "shadow": "next.tocsin"}, "other": {**model, "evidence": "run_length"}}
    (folder / "tocsin.yaml").write_text(yaml.safe_dump({"models": models}))
    return folder / "tocsin.yaml"


def rules_of(config: Path, *options: str) -> list[dict[str, Any]]:
    content = yaml.safe_load(written(config, "--kind", "grafana", *options))
    assert content["apiVersion"] == 1
    return [rule for group in content["groups"] for rule in group["rules"]]


def promql(rule: dict[str, Any]) -> str:
    (query,) = [step for step in rule["data"] if step["datasourceUid"] != "__expr__"]
    return str(query["model"]["expr"])


def test_it_has_every_alert_with_its_labels_its_patience_and_its_runbook(configured: Path) -> None:
    expected = alerts(written(configured, *RATE))
    rules = {rule["title"]: rule for rule in rules_of(configured, *RATE)}
    assert set(rules) == set(expected)
    for name, rule in rules.items():
        assert rule["for"] == expected[name]["for"] and rule["labels"] == expected[name]["labels"]
        assert rule["annotations"]["runbook_url"] == expected[name]["annotations"]["runbook_url"]


def test_a_rule_is_what_grafana_reads_from_a_file(configured: Path) -> None:
    """The fields of AlertRuleV1 and QueryV1 in Grafana's reader of files."""
    fields = {"uid", "title", "condition", "data", "noDataState", "execErrState", "for", "annotations", "labels"}
    uids = set()
    for rule in rules_of(configured, "--receiver", "team"):
        assert set(rule) == fields | {"notification_settings"}
        assert rule["notification_settings"]["receiver"] == "team"
        assert re.fullmatch(r"[\w-]{1,40}", rule["uid"]) and rule["uid"] not in uids
        uids.add(rule["uid"])
        query, fires, condition = rule["data"]
        for step in rule["data"]:
            assert set(step) == {"refId", "datasourceUid", "relativeTimeRange", "model"}
            assert step["model"]["refId"] == step["refId"]
            assert step["relativeTimeRange"]["from"] > step["relativeTimeRange"]["to"]
        assert query["datasourceUid"] == "prometheus" and query["model"]["instant"]
        assert re.findall(r"\$(\w+)", fires["model"]["expression"]) == [query["refId"]] * 3
        assert condition["model"]["expression"] == fires["refId"] and rule["condition"] == condition["refId"]
        assert rule["noDataState"] == "OK"  # the query returns nothing while all is well


def test_no_query_waits_for_a_series_that_somebody_else_would_have_to_record(configured: Path) -> None:
    assert not [rule["title"] for rule in rules_of(configured, *RATE) if "tocsin:" in promql(rule)]


def test_texts_ask_for_nothing_that_grafana_does_not_know(configured: Path) -> None:
    for rule in rules_of(configured, *RATE):
        for text in rule["annotations"].values():
            assert "query }}" not in text and not re.search(r"\$value\b", text), text
            assert set(re.findall(r"\$values\.(\w+)", text)) <= {"query"}
            assert "{{ end }}{{ end }}" not in text and "()" not in text


@pytest.fixture(scope="module")
def firing_in(configured: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The alerts that fire after eight hours by namespace: one that is calm, and one for each disturbance."""
    series = in_namespace(PROMISE, "calm")
    for name, disturbed in DISTURBED.items():
        later = dict.fromkeys(disturbed, GONE_LATER) if name == "TocsinGone" else disturbed
        series |= in_namespace({**PROMISE, **later}, name.lower())
    rules = [
        {"alert": rule["title"], "expr": promql(rule), "for": rule["for"], "labels": rule["labels"]}
        for rule in rules_of(configured, *RATE)
    ]
    text = yaml.safe_dump({"groups": [{"name": "as Grafana asks", "rules": rules}]})
    claims = [{"eval_time": "8h", "alertname": name, "exp_alerts": []} for name in DISTURBED]
    folder = tmp_path_factory.mktemp("asked")
    shown = unit_test(folder, text, series, every=SELDOM, alert_rule_test=claims).stderr
    reports = re.split(r"(?m)^.*alertname: (\w+),", shown)
    firing: dict[str, set[str]] = {}
    for alert, report in zip(reports[1::2], reports[2::2], strict=True):
        for namespace in re.findall(r'namespace="(\w+)"', report):
            firing.setdefault(namespace, set()).add(alert)
    return firing


def test_nothing_fires_where_the_promise_is_kept(firing_in: dict[str, set[str]]) -> None:
    assert "calm" not in firing_in and firing_in


@pytest.mark.parametrize("name", DISTURBED)
def test_each_query_finds_its_cause_alone_by_prometheus_reckoning(name: str, firing_in: dict[str, set[str]]) -> None:
    fired = firing_in[name.lower()]
    assert name in fired and fired <= {name} | ALONGSIDE.get(name, set())


def test_a_name_that_makes_no_uid_is_refused(configured: Path) -> None:
    arguments = ["rules", "-c", str(configured), "--kind", "grafana", "--name", "a name"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0 and "--name" in str(done.exception)


def test_the_examples_are_contact_points_and_policies_of_grafana() -> None:
    points = yaml.safe_load((ROOT / "examples/grafana/contact_points.yaml").read_text())["contactPoints"]
    for point in points:
        for receiver in point["receivers"]:
            assert grafana.ContactPoint.from_json(receiver).to_json() == receiver
    (policy,) = yaml.safe_load((ROOT / "examples/grafana/policies.yaml").read_text())["policies"]
    for node in (policy, *policy["routes"]):
        content = {key: value for key, value in node.items() if key not in ("orgId", "routes")}
        assert grafana.NotificationPolicy.from_json(content).to_json() == content
        assert node["receiver"] in {point["name"] for point in points}
