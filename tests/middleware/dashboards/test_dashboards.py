"""Claims about the dashboards: every panel shows something of real traffic, by a real Prometheus' reckoning."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.alerts.stack import Stack
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    TRIES_AGAIN_SOON,
    at_once,
    far_away,
    free_port,
    inference,
    quick_bundle,
    running,
    safe_traffic,
    settings,
)
from typer.testing import CliRunner

from tocsin.cli.dashboards import as_json, boards
from tocsin.cli.main import app

ROOT = Path(__file__).parents[3]
BOARDS = {name: json.loads(as_json(board)) for name, board in boards().items()}
QUERIES = [
    (name, panel["title"], target["expr"])
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", [])
]


def as_shown(expr: str) -> str:
    """A query as Grafana sends it, with everything chosen."""
    for name, value in (("__rate_interval", "15s"), ("__range", "1m"), ("model", ".+"), ("severity", ".+")):
        expr = expr.replace(f"${name}", value)
    return expr.replace("$instance", ".+")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two Tocsins with real traffic: one that enforces, shadows, and tells others; and one of two workers."""
    folder = tmp_path_factory.mktemp("watched")
    for name in ("digits", "next"):
        provenance = {"calibrated": {"timestamp": time.time()}}
        dataclasses.replace(quick_bundle(folder / f"{name}.tocsin"), provenance=provenance).write(
            folder / f"{name}.tocsin"
        )
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": []}))
    model = {"bundle": folder / "digits.tocsin", "signals": SIGNALS}
    telling = {
        "mode": "enforce",
        "events": {"to": [{"file": folder / "alarms.jsonl"}]},
        "opentelemetry": {"endpoint": f"http://127.0.0.1:{free_port()}", "traces": 0},
        "models": {"digits": {**model, "shadow": folder / "next.tocsin", "on_alarm": {"critical": "abstain"}}},
    }
    listen, metrics = free_port(), free_port()
    safe = safe_traffic(200, seed=4)
    with model_server() as (server, address), running(settings(address, None, **telling)) as relay:
        server.answers = {b"%d" % row: inference(safe, slice(row, row + 1)) for row in range(200)}
        server.answers |= {b"far": inference(far_away(1), slice(0, 1)), b"broken": b"\xff"}
        config = folder / "workers.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "metrics": f"127.0.0.1:{metrics}", "admin": None,
            "scoring_budget": "60s",
            "workers": 2, "models": {"other": {"bundle": str(model["bundle"]), "signals": SIGNALS}},
        }))  # fmt: skip
        workers = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)], env=at_once())
        assert relay.sidecar.http is not None
        try:
            with Stack(folder, folder / "rules.yaml", relay.sidecar.http.address.port, metrics) as stack:
                for number in range(16):
                    for target in (relay.target, f"127.0.0.1:{listen}"):
                        send(target, [b"%d" % (row * number % 200) for row in range(20)] + [b"far", b"broken"])
                    time.sleep(0.6)
                yield stack
        finally:
            workers.terminate()
            workers.wait(60)


def send(target: str, requests: list[bytes]) -> None:
    with grpc.insecure_channel(target, TRIES_AGAIN_SOON) as channel:
        for request in requests:
            try:
                channel.unary_unary(INFER)(request, timeout=60, wait_for_ready=True)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION  # withheld


@pytest.mark.parametrize(("board", "panel", "expr"), QUERIES)
def test_every_query_returns_data(board: str, panel: str, expr: str, watched: Stack) -> None:
    series = watched.query(as_shown(expr))
    assert any(row["value"][1] != "NaN" for row in series), f"{board}: {panel}: {expr}"


def test_every_query_of_grafanas_alert_rules_is_answered(watched: Stack, tmp_path: Path) -> None:
    """With a limit that unscored responses exceed here, and a model that does not run here."""
    for name in ("digits", "absent"):
        quick_bundle(tmp_path / f"{name}.tocsin")
    models = {name: {"bundle": f"{name}.tocsin", "signals": SIGNALS} for name in ("digits", "absent")}
    (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump({"models": models}))
    arguments = ["rules", "-c", str(tmp_path / "tocsin.yaml"), "--kind", "grafana", "--unscored", "0.001"]
    done = CliRunner().invoke(app, [*arguments, "--by", "job", "--upstream-rate", "sum by (job) (rate(up[1m]))"])
    assert done.exit_code == 0, done.output
    rules = [rule for group in yaml.safe_load(done.output)["groups"] for rule in group["rules"]]
    answers = {rule["title"]: watched.query(rule["data"][0]["model"]["expr"]) for rule in rules}  # an error is raised
    assert {"TocsinUnscored", "TocsinGone"} <= {title for title, series in answers.items() if series}
    assert {series["metric"]["model"] for series in answers["TocsinGone"]} == {"absent"}


@pytest.mark.parametrize("board", BOARDS)
def test_every_variable_has_values_and_every_annotation_is_promql(board: str, watched: Stack) -> None:
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", as_shown(variable["query"])).groups()  # type: ignore[union-attr]
            assert watched.ask(f"label/{label}/values", **{"match[]": metric}), variable["name"]
    names = [annotation["name"] for annotation in BOARDS[board]["annotations"]["list"]]
    assert names == ["alerts", "alarms", "new bundles"]
    for annotation in BOARDS[board]["annotations"]["list"]:
        watched.query(annotation["expr"])  # an error is raised
    assert watched.query(BOARDS[board]["annotations"]["list"][1]["expr"])


def test_panels_have_a_title_a_source_and_room(watched: Stack) -> None:
    for board in BOARDS.values():
        places: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["title"]
            if panel["type"] == "row":
                continue
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & places and at["x"] + at["w"] <= 24
            places |= cells


def test_exemplars_lead_to_traces_and_links_to_runbooks() -> None:
    promise = BOARDS["promise"]
    assert any(target.get("exemplar") for panel in promise["panels"] for target in panel.get("targets", []))
    assert [link["url"] for link in promise["links"] if link["type"] == "link"] == ["docs/runbooks"]
    assert {link["title"] for link in promise["links"]} == {"Tocsin", "Runbooks"}


def test_the_chart_ships_the_dashboards_as_they_are() -> None:
    for name, board in boards().items():
        shipped = ROOT / "helm" / "tocsin" / "dashboards" / f"tocsin-{name}.json"
        assert shipped.read_text() == as_json(board), "run: tocsin dashboards helm/tocsin/dashboards"


def test_dashboards_have_the_form_that_grafana_com_takes() -> None:
    for board in BOARDS.values():
        assert board["__inputs"] == [] and "id" not in board  # the data source is a variable, and Grafana numbers it
        sources = json.dumps(board["panels"]) + json.dumps(board["annotations"])
        assert set(re.findall(r'"uid": "([^"]*)"', sources)) == {"${datasource}"}
        required = {(part["type"], part["id"]) for part in board["__requires"]}
        panels = {("panel", panel["type"]) for panel in board["panels"] if panel["type"] != "row"}
        assert required == {("grafana", "grafana"), ("datasource", "prometheus")} | panels


def test_a_configmap_holds_both() -> None:
    done = CliRunner().invoke(app, ["dashboards", "--label", "grafana_dashboard=yes"])
    assert done.exit_code == 0
    manifest: dict[str, Any] = yaml.safe_load(done.output)
    assert manifest["kind"] == "ConfigMap" and manifest["metadata"]["labels"] == {"grafana_dashboard": "yes"}
    assert {json.loads(text)["uid"] for text in manifest["data"].values()} == {"tocsin-promise", "tocsin-plumbing"}
