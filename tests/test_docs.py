"""Claims about the docs: what they list is what there is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from benchmarks.harness.parts import SIGNALS, free_port, running, settings
from pydantic import BaseModel
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.configuration.actions import AbstainConfig, BlockConfig, FallbackConfig, RetryConfig
from tocsin.configuration.config import Config
from tocsin.configuration.events import EventsConfig
from tocsin.configuration.listener import Limits
from tocsin.configuration.model import AdaptConfig, DiscoveryConfig, ModelConfig, RiskConfig
from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.unscored import REASONS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def first_cells(page: str, pattern: str) -> list[str]:
    lines = (DOCS / page).read_text().splitlines()
    return [name for line in lines if line.startswith("| `") for name in re.findall(pattern, line.split("|")[1])]


def test_every_reason_for_an_unscored_response_is_explained() -> None:
    page = (DOCS / "outcomes.md").read_text().partition("## At start")[0]
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert listed == list(REASONS)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    page = (DOCS / "configuration.md").read_text()
    model = Config.model_fields.keys() - {"models"}
    for name in ModelConfig.model_fields:
        assert any(line.startswith(f"| `models.NAME.{name}") for line in page.splitlines()), name
    for part in (
        RiskConfig, AdaptConfig, DiscoveryConfig, AbstainConfig, BlockConfig, FallbackConfig, RetryConfig, Limits,
    ):  # fmt: skip
        assert all(f"`{name}`" in page for name in part.model_fields)
    for name in model:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` ")]
        default = Config.model_fields[name].get_default()
        default_shown = line.split("|")[2].strip(" `")
        if hasattr(default, "total_seconds"):
            units = {"ms": 1e-3, "s": 1.0}
            number, unit = re.fullmatch(r"([\d.]+)(ms|s)", default_shown).groups()  # type: ignore[union-attr]
            assert float(number) * units[unit] == default.total_seconds()
        elif isinstance(default, BaseModel):
            assert default_shown == f"{type(default).__name__}()"
        elif default_shown.endswith("MiB"):
            assert int(default_shown.removesuffix("MiB")) << 20 == default
        else:
            assert default_shown == str(default)


def test_every_option_that_a_promise_names_is_one_of_a_command() -> None:
    commands = typer.main.get_command(app)
    options = {option for command in _leaves(commands) for parameter in command.params for option in parameter.opts}
    page = (DOCS / "promises.md").read_text()
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", page))
    assert named and named <= options, named - options
    for setting in re.findall(r"`(\w+): ?[`{]", page):
        assert setting in ModelConfig.model_fields, setting


def _leaves(command: Any) -> Iterator[Any]:
    if not hasattr(command, "list_commands"):
        yield command
        return
    for name in command.list_commands(None):
        yield from _leaves(command.get_command(None, name))


def test_every_metric_is_in_the_table_and_the_other_way_round(bundle: Path, tmp_path: Path) -> None:
    more = {
        "events": {"to": [{"file": tmp_path / "alarms.jsonl"}]},
        "opentelemetry": {"endpoint": f"http://127.0.0.1:{free_port()}"},
        "record": {"to": tmp_path / "record"},
        "state": {"redis": f"redis://127.0.0.1:{free_port()}"},
        "ext_proc": "127.0.0.1:0",
    }
    with running(settings(1, bundle, **more)) as relay:
        exposed = re.findall(r"^# TYPE (tocsin_\w+) ", relay.metrics, re.MULTILINE)
    listed = first_cells("observability.md", r"`(tocsin_\w+)`")
    of_workers = {"tocsin_workers", "tocsin_worker_restarts_total"}  # shown by the supervisor alone
    assert len(listed) == len(set(listed)) and set(listed) - of_workers == set(exposed)


def test_every_alert_and_every_setting_of_what_is_told_is_in_the_page(bundle: Path, tmp_path: Path) -> None:
    page = (DOCS / "observability.md").read_text()
    config = tmp_path / "tocsin.yaml"
    model = {"bundle": str(bundle), "shadow": str(bundle), "signals": SIGNALS}
    config.write_text(yaml.safe_dump({"models": {"digits": model}}))
    done = CliRunner().invoke(app, ["rules", "-c", str(config), "--upstream-rate", "sum(rate(x[5m]))"])
    alerts = {
        rule["alert"] for group in yaml.safe_load(done.output)["groups"] for rule in group["rules"] if "alert" in rule
    }
    table = page.partition("## Alerts")[2].partition("## Metrics")[0]
    assert set(re.findall(r"`(Tocsin\w+)`", "\n".join(first_lines(table)))) == alerts
    for name, part in (("events", EventsConfig), ("opentelemetry", TelemetryConfig)):
        for field in part.model_fields:
            assert f"`{name}.{field}`" in page, field


def first_lines(table: str) -> list[str]:
    return [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]


PLACES = ("", "middleware/tocsin", "middleware", "calibration", "detectors")  # what paths in the page begin at


def test_every_file_that_the_architecture_names_is_there() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    paths = re.findall(r"`([\w./-]+(?:\.(?:py|c|md)|/))`", page)
    names = {path.name for place in PLACES[1:] for path in (ROOT / place).rglob("*.[cp]*")}  # of a package just named
    assert len(paths) > 50
    for path in paths:
        assert path in names or any((ROOT / place / path).exists() for place in PLACES), path


def test_the_architecture_lists_the_layers_that_imports_are_held_to() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Layers")[2].partition("\n\nWithin")[0]
    listed = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["tocsin"]]
    assert [sorted(row) for row in listed] == [sorted(re.findall(r"\w+", layer)) for layer in layers]
