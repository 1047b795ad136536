"""Claims about examples in the docs: what is shown of a configuration is one, and Python is Python."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.docs.terminal import blocks

from tocsin.configuration.config import Config
from tocsin.configuration.model import ModelConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def configurations(page: Path) -> Iterator[dict[str, Any]]:
    """The blocks of a page that are a configuration, or a part of one."""
    for block in blocks(page):
        if block.language == "yaml" and "{{" not in block.text:  # no template of Helm
            for content in yaml.safe_load_all(block.text):
                if isinstance(content, dict) and content.keys() <= Config.model_fields.keys():
                    yield content
                elif isinstance(content, dict) and content.keys() <= ModelConfig.model_fields.keys():
                    yield {"models": {"m": content}}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_that_is_shown_is_valid(page: Path) -> None:
    for content in configurations(page):
        models = content.get("models") or {"m": {"signals": {"probs": "response.outputs.p"}}}
        for listener in content.get("listeners", []):
            models |= {listener["model"]: {}} if "model" in listener else {}
        for model in models.values():  # parts leave out what is not their subject
            model.setdefault("signals", {"probs": "response.outputs.p"})
            for name in ("fallback", "retry"):
                if any(name in str(action) for action in model.get("on_alarm", {}).values()):
                    model.setdefault(name, {"upstream": "m:1"} if name == "fallback" else {})
        Config.model_validate({**content, "models": models})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_that_is_shown_parses(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text)


def test_configurations_are_found() -> None:
    assert sum(len(list(configurations(page))) for page in PAGES) >= 20
