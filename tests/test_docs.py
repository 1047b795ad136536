"""Claims about the docs: what they list is what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from tests.parts import settings

from tocsin.action_config import AbstainConfig, BlockConfig, FallbackConfig, RetryConfig
from tocsin.cli.main import app
from tocsin.config import Config
from tocsin.judgement.guard import Guard
from tocsin.listener_config import Limits
from tocsin.model_config import AdaptConfig, DiscoveryConfig, ModelConfig, RiskConfig
from tocsin.relay.server import Relay
from tocsin.reloading import Reloader
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.unscored import REASONS

DOCS = Path(__file__).parents[1] / "docs"


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
        told = line.split("|")[2].strip(" `")
        if hasattr(default, "total_seconds"):
            units = {"ms": 1e-3, "s": 1.0}
            number, unit = re.fullmatch(r"([\d.]+)(ms|s)", told).groups()  # type: ignore[union-attr]
            assert float(number) * units[unit] == default.total_seconds()
        elif isinstance(default, BaseModel):
            assert told == f"{type(default).__name__}()"
        elif told.endswith("MiB"):
            assert int(told.removesuffix("MiB")) << 20 == default
        else:
            assert told == str(default)


def test_every_option_that_a_promise_names_is_one_of_a_command() -> None:
    commands = typer.main.get_command(app)
    known = {option for command in _leaves(commands) for one in command.params for option in one.opts}
    page = (DOCS / "promises.md").read_text()
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", page))
    assert named and named <= known, named - known
    for setting in re.findall(r"`(\w+): ?[`{]", page):
        assert setting in ModelConfig.model_fields, setting


def _leaves(command: Any) -> Iterator[Any]:
    below = getattr(command, "commands", None)
    if below is None:
        yield command
    else:
        for one in below.values():
            yield from _leaves(one)


def test_every_metric_is_in_the_table_and_the_other_way_round(bundle: Path) -> None:
    config = settings(1, bundle)
    guard = Guard.open(config)
    metrics = PrometheusSink(guard.models)
    relay = Relay(config, guard)
    families = [*metrics.collect(), *relay.collect(), *Reloader(None, relay, guard, metrics).collect()]
    exported = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    assert set(first_cells("configuration.md", r"`(tocsin_\w+)`")) == exported
