"""Claim: every test that docs/security.md names as holding a promise is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_promise_names_tests_that_exist() -> None:
    _, _, section = (ROOT / "docs" / "security.md").read_text().partition("## What holds each promise")
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, f"no test holds: {row}"
        for file, name in named:
            source = (ROOT / "tests" / file).read_text()
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"tests/{file} has no {name}"
