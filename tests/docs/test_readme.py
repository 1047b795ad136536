"""Claims about the README: it is short, and shows only what the first tutorial, which is typed by a test, does too."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.terminal import blocks, masked

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"


def section(title: str) -> str:
    return README.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_it_is_read_in_five_minutes() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_what_is_typed_and_printed_in_five_minutes_is_typed_in_the_tutorial() -> None:
    shown = {language: set[str]() for language in ("sh", "text", "yaml", "python")}
    for block in blocks(TUTORIAL):
        shown[block.language] |= {masked(line) for line in block.text.splitlines()}
    readme_blocks = re.findall(
        r"^```(\w+)\n(.*?)^```$", section("Guard a server in five minutes"), re.MULTILINE | re.DOTALL
    )
    assert {language for language, _ in readme_blocks} == {"sh", "text", "yaml"}
    for language, text in readme_blocks:
        lines = {masked(line) for line in text.splitlines() if line and not line.startswith("#")}
        assert lines <= shown[language], lines - shown[language]


def test_all_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README.read_text()):
        assert (ROOT / target).exists(), target
