"""Claims about the site: it builds without a broken link, and its generated references have everything there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from docs.site import command_pages, python_pages, setting_pages

from tocsin.cli.main import app
from tocsin.configuration.config import Config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a broken link, a missing anchor or a page without a place fails."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_every_public_name_is_on_the_page_of_the_python_api(site: Path) -> None:
    page = (site / "reference" / "api" / "index.html").read_text()
    for package in python_pages.PACKAGES:
        for name in package.__all__:
            assert any(f'id="{place}"' in page for place in python_pages.places(package.__name__, name)), name


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert 'src="http' not in text and 'rel="stylesheet" href="http' not in text, page


def test_every_setting_has_an_example_that_is_valid_and_a_description() -> None:
    for document in setting_pages.documents():
        Config.model_validate(document)
    examples = setting_pages.examples()
    for path, field in setting_pages.settings():
        assert path in examples, f"docs/site/every_setting.yaml: an example of {path} is missing"
        assert field.description, path


def test_every_setting_of_a_method_is_in_the_reference() -> None:
    page = setting_pages.page()
    for name in ("model", "judge", "content", "ids.request", "ask.set", "abort.method", "alternatives.tokens"):
        assert f"| `protocols.PROTOCOL.methods.METHOD.{name}` |" in page


def test_every_command_and_option_is_in_the_reference() -> None:
    page = command_pages.page()
    for words, command in command_pages.commands(typer.main.get_command(app)):
        _, separator, section = page.partition(f"## `{words}`\n")
        assert separator, words
        for parameter in command.params:
            name = parameter.name.upper() if parameter.param_type_name == "argument" else parameter.opts[0]
            assert f"`{name}`" in section.partition("\n## ")[0], (words, name)


def test_every_page_has_a_place_in_the_navigation() -> None:
    placed = _pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert there <= set(placed), there - set(placed)
    assert len(set(placed)) == len(placed)


def test_files_that_contributors_are_sent_to_are_there() -> None:
    page = (ROOT / "docs" / "layout.md").read_text()
    named = [path for path in re.findall(r"`([\w./]+/[\w./]*)`", page) if not re.search(r"[A-Z]{2}", path)]
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path


def _pages(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    entries = entry if isinstance(entry, list) else list(entry.values())  # type: ignore[attr-defined]
    return [page for subentry in entries for page in _pages(subentry)]
