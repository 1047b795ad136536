"""Claims about alert rules: each fires when it should, not when it should not, by Prometheus' own reckoning."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmarks.harness.parts import SIGNALS, quick_bundle
from typer.testing import CliRunner

from tocsin.alerting.rates import CHANCE, ceiling
from tocsin.alerting.watched import RuleOptions, watched
from tocsin.cli.main import app
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.sinks.prometheus import PrometheusSink
from tocsin_calibration import FalseAlarmLaw

ROOT = Path(__file__).parents[3]
SELDOM = "5m"  # between evaluations, where hours pass: a fifth of the work, and no alert waits for less
MORE = ["--upstream-rate", "sum(rate(nv_inference_request_success[5m]))"]
PROMISE = {  # what a calm Tocsin shows
    'tocsin_alpha{model="digits",severity="warning"}': "0.05+0x1000",
    'tocsin_alpha{model="digits",severity="critical"}': "0.01+0x1000",
    'tocsin_expected_alarm_ratio{model="digits",severity="warning"}': "0.0499+0x1000",
    'tocsin_expected_alarm_ratio{model="digits",severity="critical"}': "0.0099+0x1000",
    'tocsin_calibration_responses{model="digits"}': "600+0x1000",
    'tocsin_bundle_info{model="digits",digest="sha256:1"}': "1+0x1000",
    'tocsin_bundle_calibrated_timestamp_seconds{model="digits"}': "0+0x1000",
    'tocsin_responses_total{model="digits",method="/m",decision="pass"}': "0+285x1000",
    'tocsin_responses_total{model="digits",method="/m",decision="flag"}': "0+15x1000",
    'tocsin_promised_total{model="digits"}': "0+300x1000",
    'tocsin_promised_alarms_total{model="digits",severity="warning"}': "0+15x1000",
    'tocsin_promised_alarms_total{model="digits",severity="critical"}': "0+3x1000",
    'tocsin_promise_log_evalue{model="digits",severity="warning"}': "-2+0x1000",
    'tocsin_promise_log_evalue{model="digits",severity="critical"}': "-2+0x1000",
    'tocsin_quiet_log_evalue{model="digits",severity="warning"}': "-2+0x1000",
    'tocsin_quiet_log_evalue{model="digits",severity="critical"}': "-2+0x1000",
    'tocsin_drift_log_evalue{model="digits"}': "-2+0x1000",
    'tocsin_cause_log_evalue{model="digits",kind="detector",cause="entropy"}': "-2+0x1000",
    'tocsin_cause_log_evalue{model="digits",kind="group",cause="eu"}': "-2+0x1000",
    'tocsin_inputs_log_evalue{model="digits"}': "-2+0x1000",
    'tocsin_change_timestamp_seconds{model="digits"}': "0+0x1000",
    'tocsin_added_seconds_bucket{le="0.005"}': "0+300x1000",
    'tocsin_added_seconds_bucket{le="0.01"}': "0+300x1000",
    'tocsin_added_seconds_bucket{le="+Inf"}': "0+300x1000",
    'tocsin_relay_calls_total{guarded="true"}': "0+300x1000",
    'tocsin_relay_calls_total{guarded="false"}': "0+300x1000",
    "nv_inference_request_success": "0+300x1000",
    'tocsin_shadow_responses_total{model="digits",severity="none",live="none"}': "0+285x1000",
    'tocsin_shadow_responses_total{model="digits",severity="warning",live="warning"}': "0+12x1000",
    'tocsin_shadow_responses_total{model="digits",severity="none",live="warning"}': "0+3x1000",
    'tocsin_unscored_total{model="digits",reason="no_previous"}': "0+30x480",  # the first of each session
}
DISTURBED: dict[str, dict[str, str]] = {  # what each alert is about, and nothing else
    "TocsinPromiseBroken": {'tocsin_promise_log_evalue{model="digits",severity="critical"}': "7+0x480"},
    "TocsinAlarmBudgetBurnsFast": {
        'tocsin_promised_alarms_total{model="digits",severity="critical"}': "0+90x480",
        'tocsin_promised_alarms_total{model="digits",severity="warning"}': "0+102x480",
    },
    "TocsinAlarmBudgetBurnsSlowly": {'tocsin_promised_alarms_total{model="digits",severity="warning"}': "0+48x1000"},
    "TocsinTooQuiet": {'tocsin_quiet_log_evalue{model="digits",severity="critical"}': "7+0x1000"},
    "TocsinDrift": {'tocsin_drift_log_evalue{model="digits"}': "7+0x1000"},
    "TocsinInputsChanged": {'tocsin_inputs_log_evalue{model="digits"}': "7+0x1000"},
    "TocsinCause": {'tocsin_cause_log_evalue{model="digits",kind="group",cause="eu"}': "7+0x1000"},
    "TocsinCalibrationStale": {'tocsin_bundle_calibrated_timestamp_seconds{model="digits"}': "-2592000+0x1000"},
    "TocsinCandidateDisagrees": {
        'tocsin_shadow_responses_total{model="digits",severity="critical",live="none"}': "0+120x480"
    },
    "TocsinGone": {'tocsin_bundle_info{model="digits",digest="sha256:1"}': "_x480"},
    "TocsinBlind": {'tocsin_unscored_total{model="digits",reason="scorer_error"}': "0+400x480"},
    "TocsinUnscored": {'tocsin_unscored_total{model="digits",reason="late"}': "0+30x480"},
    "TocsinSeesOtherCallsOnly": {'tocsin_relay_calls_total{guarded="true"}': "0+0x480"},
    "TocsinBypassed": {'tocsin_relay_calls_total{guarded="true"}': "0+0x480"},
    "TocsinSlow": {'tocsin_added_seconds_bucket{le="0.005"}': "0+290x480"},
    "TocsinUpstreamUnreachable": {"tocsin_relay_upstream_failures_total": "0+1x480"},
    "TocsinReloadFailed": {'tocsin_reloads_total{outcome="failed"}': "0+1x480"},
    "TocsinWorkersDie": {"tocsin_worker_restarts_total": "0+1x480"},
    "TocsinJudgesDisagree": {
        'tocsin_second_opinions_total{model="digits",opinion="rating",severity="disbelieved"}': "0+1x480"
    },
}
ALONGSIDE = {  # alerts that the same disturbance rightly sets off too
    "TocsinAlarmBudgetBurnsFast": {"TocsinAlarmBudgetBurnsSlowly"},
    "TocsinBlind": {"TocsinUnscored"},
    "TocsinSeesOtherCallsOnly": {"TocsinBypassed"},
    "TocsinBypassed": {"TocsinSeesOtherCallsOnly"},
}


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    for name in ("digits", "next"):
        quick_bundle(folder / f"{name}.tocsin")
    model = {"bundle": "digits.tocsin", "shadow": "next.tocsin", "signals": SIGNALS}
    (folder / "tocsin.yaml").write_text(yaml.safe_dump({"models": {"digits": model}}))
    return folder / "tocsin.yaml"


@cache
def written(config: Path, *options: str) -> str:
    done = CliRunner().invoke(app, ["rules", "-c", str(config), *options])
    assert done.exit_code == 0, done.output
    return done.output


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert shutil.which("promtool"), "promtool is missing: apt-get install prometheus"
    surroundings = {**os.environ, "GOGC": "400"}  # it lives for a second: a third of its work is to tidy up
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)


def alerts(text: str) -> dict[str, Any]:
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def unit_test(
    folder: Path, rules: str, series: dict[str, str], *, every: str = "1m", **claims: Any
) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(rules)
    asked_at = [claim["eval_time"] for of_kind in claims.values() for claim in of_kind]
    minutes = 60 * max(int(hours.removesuffix("h")) for hours in asked_at)  # later samples are loaded for nothing
    inputs = [{"series": name, "values": values.replace("x480", f"x{minutes}")} for name, values in series.items()]
    content = {
        "rule_files": ["rules.yaml"], "evaluation_interval": every,
        "tests": [{"interval": "1m", "input_series": inputs, **claims}],
    }  # fmt: skip
    (folder / "test.yaml").write_text(yaml.safe_dump(content))
    return promtool("test", "rules", folder / "test.yaml")


def firing(folder: Path, rules: str, series: dict[str, str]) -> set[str]:
    """The alerts that fire after eight hours, as promtool tells what it found where nothing was expected."""
    names = list(alerts(rules))
    claims = [{"eval_time": "8h", "alertname": name, "exp_alerts": []} for name in names]
    output = unit_test(folder, rules, series, every=SELDOM, alert_rule_test=claims).stderr
    return {name for name in names if f"alertname: {name}," in output}


def test_evidence_is_shared_among_all_severities_and_models_also_by_run_length(tmp_path: Path) -> None:
    """The same limit in the rules, in the metrics and on the page."""
    quick_bundle(tmp_path / "digits.tocsin")
    model = {"bundle": str(tmp_path / "digits.tocsin"), "signals": SIGNALS}
    models = {"a": model, "b": {**model, "evidence": "run_length"}, "c": {**model, "evidence": "run_length"}}
    (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump({"models": models}))
    text = alerts(written(tmp_path / "tocsin.yaml"))["TocsinPromiseBroken"]["expr"]
    expected = {"a": np.log(2 / 0.01), "b": np.log(4 * 1e6), "c": np.log(4 * 1e6)}
    assert {f"> {limit:.4f}" for limit in expected.values()} == set(re.findall(r"> [\d.]+", text))
    sink = PrometheusSink(Guard.open(Config(**{"models": models})).models)
    (shown,) = [family for family in sink.collect() if family.name == "tocsin_promise_log_limit"]
    assert {sample.labels["model"]: sample.value for sample in shown.samples} == pytest.approx(expected)
    assert sink.limits.windows == pytest.approx(expected["a"]) and sink.limits.run_length == pytest.approx(
        expected["b"]
    )


def test_the_luck_of_two_calibrations_is_no_disagreement(configured: Path, tmp_path: Path) -> None:
    """Two promises of 5%, 600 responses behind each, may alarm on 7% of the same hour and on none in common."""
    luck = {'tocsin_shadow_responses_total{model="digits",severity="warning",live="none"}': "0+41x480"}
    assert "TocsinCandidateDisagrees" not in firing(tmp_path, written(configured, *MORE), PROMISE | luck)


def test_prometheus_takes_the_file_as_it_is(configured: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(written(configured, *MORE, "--by", "namespace"))
    checked = promtool("check", "rules", tmp_path / "rules.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "duplicate" not in checked.stderr + checked.stdout


def test_the_operators_resource_holds_the_same_rules(configured: Path) -> None:
    resource = yaml.safe_load(written(configured, "--kind", "PrometheusRule", "--label", "release=prometheus"))
    assert (resource["apiVersion"], resource["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert resource["metadata"] == {"name": "tocsin", "labels": {"release": "prometheus"}}
    assert resource["spec"] == yaml.safe_load(written(configured))


def test_nothing_fires_on_traffic_that_keeps_its_promise(configured: Path, tmp_path: Path) -> None:
    assert firing(tmp_path, written(configured, *MORE), PROMISE) == set()


def test_every_alert_has_a_case_here_and_a_runbook(configured: Path) -> None:
    rules = alerts(written(configured, *MORE))
    assert set(rules) == set(DISTURBED)
    for name, rule in rules.items():
        page = ROOT / rule["annotations"]["runbook_url"]
        assert name in page.read_text().splitlines()[0], f"{page} is not about {name}"


@pytest.mark.parametrize("name", DISTURBED)
def test_an_alert_fires_for_its_cause_alone(name: str, configured: Path, tmp_path: Path) -> None:
    fired = firing(tmp_path, written(configured, *MORE), {**PROMISE, **DISTURBED[name]})
    assert name in fired
    assert fired <= {name} | ALONGSIDE.get(name, set())


def in_namespace(series: dict[str, str], namespace: str) -> dict[str, str]:
    """The same series as Prometheus finds them in one of several deployments."""
    label = f'namespace="{namespace}"'
    return {
        (name.replace("{", f"{{{label},") if "{" in name else f"{name}{{{label}}}"): values
        for name, values in series.items()
    }


GONE_LATER = "1+0x120 _x360"  # there for two hours


@pytest.fixture(scope="module")
def alerts_of_namespaces(configured: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What promtool reports of one calm namespace and one for each disturbance, named after it in lower case."""
    series = in_namespace(PROMISE, "development")
    for name, disturbed in DISTURBED.items():
        later = dict.fromkeys(disturbed, GONE_LATER) if name == "TocsinGone" else disturbed
        series |= in_namespace({**PROMISE, **later}, name.lower())
    rate = ["--upstream-rate", "sum by (namespace) (rate(nv_inference_request_success[5m]))"]
    rules = written(configured, *rate, "--by", "namespace")
    claims = [{"eval_time": "8h", "alertname": alert, "exp_alerts": []} for alert in alerts(rules)]
    folder = tmp_path_factory.mktemp("namespaces")
    return unit_test(folder, rules, series, every=SELDOM, alert_rule_test=claims).stderr


@pytest.mark.parametrize("name", DISTURBED)
def test_an_alert_by_namespace_is_of_the_one_that_is_disturbed(name: str, alerts_of_namespaces: str) -> None:
    namespace = name.lower()
    reports = re.split(r"(?m)^.*alertname: (\w+),", alerts_of_namespaces)
    firing_here = {
        alert
        for alert, report in zip(reports[1::2], reports[2::2], strict=True)
        if f'namespace="{namespace}"' in report
    }
    assert name in firing_here and firing_here <= {name} | ALONGSIDE.get(name, set())
    assert f"namespace {namespace}" in alerts_of_namespaces  # the summary's words
    assert "development" not in alerts_of_namespaces


def test_a_deployment_that_never_was_is_missed_too(configured: Path, tmp_path: Path) -> None:
    series = {**PROMISE, **DISTURBED["TocsinGone"]}
    assert firing(tmp_path, written(configured, "--by", "namespace"), in_namespace(series, "production")) == {
        "TocsinGone"
    }


def test_summaries_by_namespace_tell_that_ones_numbers(configured: Path, tmp_path: Path) -> None:
    calm = {**PROMISE, 'tocsin_promised_alarms_total{model="digits",severity="critical"}': "0+6x480"}
    broken = {
        **PROMISE,
        **DISTURBED["TocsinPromiseBroken"],
        'tocsin_alpha{model="digits",severity="critical"}': "0.02+0x480",
    }
    series = in_namespace(calm, "development") | in_namespace(broken, "production")
    claim = {"eval_time": "2h", "alertname": "TocsinPromiseBroken", "exp_alerts": []}
    output = unit_test(tmp_path, written(configured, "--by", "namespace"), series, alert_rule_test=[claim]).stderr
    assert "digits (namespace production): critical alarms now exceed what was promised (1% in five" in output
    assert "promised 2%;" in output


def test_a_rate_without_namespaces_is_held_to_the_calls_of_all(configured: Path, tmp_path: Path) -> None:
    rules = written(configured, *MORE, "--by", "namespace")
    series = in_namespace(PROMISE, "production")
    assert firing(tmp_path, rules, series) == set()
    none = in_namespace({**PROMISE, **DISTURBED["TocsinBypassed"]}, "production")
    assert "TocsinBypassed" in firing(tmp_path, rules, none)


def test_what_is_told_names_numbers(configured: Path, tmp_path: Path) -> None:
    series = {**PROMISE, **DISTURBED["TocsinPromiseBroken"]}
    claim = {"eval_time": "2h", "alertname": "TocsinPromiseBroken", "exp_alerts": []}
    output = unit_test(tmp_path, written(configured), series, alert_rule_test=[claim]).stderr
    assert "digits: critical alarms now exceed what was promised (1% in five minutes, promised 1%" in output
    assert "evidence e^7.0 to 1)" in output


def test_an_alert_says_which_part_has_changed_and_since_when(configured: Path, tmp_path: Path) -> None:
    change = {
        'tocsin_cause_log_evalue{model="digits",kind="detector",cause="entropy"}': "9+0x480",
        'tocsin_cause_log_evalue{model="digits",kind="group",cause="eu"}': "3+0x480",
        'tocsin_change_timestamp_seconds{model="digits"}': "3600+0x480",
    }
    for alert in ("TocsinPromiseBroken", "TocsinDrift"):
        series = {**PROMISE, **DISTURBED[alert], **change}
        claim: dict[str, Any] = {"eval_time": "2h", "alertname": alert, "exp_alerts": []}
        shown = unit_test(tmp_path, written(configured), series, alert_rule_test=[claim]).stderr
        assert "Most evidence points at detector 'entropy' (e^9.0). It probably began at 1970-01-01 01:00:00" in shown
    claim = {"eval_time": "2h", "alertname": "TocsinDrift", "exp_alerts": []}
    series = {**PROMISE, **DISTURBED["TocsinDrift"]}
    assert "Most evidence" not in unit_test(tmp_path, written(configured), series, alert_rule_test=[claim]).stderr


def test_a_cause_is_named_apart_by_deployment(configured: Path, tmp_path: Path) -> None:
    rules = written(configured, "--by", "namespace")
    series = in_namespace({**PROMISE, **DISTURBED["TocsinCause"]}, "production")
    claim = {"eval_time": "2h", "alertname": "TocsinCause", "exp_alerts": []}
    shown = unit_test(tmp_path, rules, series, alert_rule_test=[claim]).stderr
    assert "digits (namespace production): scores of group 'eu' have changed (evidence e^7.0 to 1)" in shown


def test_the_recorded_ceiling_is_the_formula(configured: Path, tmp_path: Path) -> None:
    expected = ceiling(0.0499, 600, 300 * 60)
    claim = {
        "expr": 'round(tocsin:alarm_ratio_ceiling:1h{alarm="warning"}, 1e-6)', "eval_time": "2h",
        "exp_samples": [{"labels": '{model="digits",alarm="warning"}', "value": round(expected, 6)}],
    }  # fmt: skip
    done = unit_test(tmp_path, written(configured), PROMISE, promql_expr_test=[claim])
    assert done.returncode == 0, done.stderr


def test_chance_stays_under_the_ceiling_by_the_law() -> None:
    for n in (40, 100, 300, 1_000, 10_000):
        for alpha in (0.2, 0.1, 0.05, 0.01, 0.001):
            if alpha * (n + 1) < 1:
                continue
            law = FalseAlarmLaw.at(n, alpha)
            for m in (1, 3, 10, 30, 100, 1_000, 10_000):
                counts = np.arange(m + 1)
                beyond = law.count_pmf(m)[counts > ceiling(law.mean_rate, n, m) * m].sum()
                assert beyond <= 1.1 * CHANCE, (n, alpha, m)


def test_delta_is_shared_by_all_promises(configured: Path) -> None:
    for delta, limit in (("0.01", "5.2983"), ("0.0001", "9.9035")):
        rule = alerts(written(configured, "--delta", delta))["TocsinPromiseBroken"]
        assert rule["expr"].endswith(f"> {limit}")  # log(2 severities / delta)


def test_bad_wishes_are_told(tmp_path: Path) -> None:
    for wrong in ({"delta": 1.5}, {"run_length": 0.5}, {"unscored": 0}, {"by": ["name space"]}):
        with pytest.raises(ConfigError, match="--"):
            RuleOptions(max_age=timedelta(days=1), **wrong)  # type: ignore[arg-type]
    without = Config(models={"digits": {"signals": SIGNALS}})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="none has a bundle"):
        watched(without)
