"""Claims about `tocsin checklist`: a judge writes the questions once, people review them, and then they stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from benchmarks.harness.judge_server import Reply, judge_server
from tests.command import tocsin

from tocsin.configuration.config import Config

REFUSED = 2
WRITTEN = """Here is the checklist:
1. **Does the answer name its source?**
2) Is the answer polite?
- [ ] Is the answer polite?
* Does the answer keep to 100 words?

I hope this helps!"""


def configured(folder: Path, url: str) -> Path:
    path = folder / "tocsin.yaml"
    second = {
        "judge": {"url": url, "model": "judge"},
        "opinions": {"checks": {"kind": "checklist", "questions_file": "checks.txt"}},
    }
    path.write_text(yaml.safe_dump({"models": {"chat": {"protocol": "openai", "second_opinion": second}}}))
    return path


def test_a_judge_writes_the_questions_once(tmp_path: Path) -> None:
    family, out = tmp_path / "family.txt", tmp_path / "checks.txt"
    family.write_text("Answers questions about opening hours. {most}")

    def reply(prompt: str) -> Reply:
        assert "Answers questions about opening hours. {most}" in prompt and "at most 2 questions" in prompt
        return WRITTEN

    with judge_server(reply) as judge:
        config = configured(tmp_path, judge.url)
        command = ("checklist", family, "-c", config, "-o", out, "--most", "2")
        done = tocsin(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "review it" in done.stdout
        again = tocsin(*command, code=REFUSED)
        assert "exists already" in again.stderr
        assert len(judge.prompts) == 1
    lines = out.read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "Does the answer name its source?",
        "Is the answer polite?",
    ]
    assert tocsin("config", "check", config).returncode == 0
    assert Config.load(config).models["chat"].second_opinion is not None


@pytest.mark.parametrize(("reply", "problem"), [("I cannot do that.", "no line that ends with"), (500, "HTTP 500")])
def test_a_judge_that_writes_no_question_writes_no_file(tmp_path: Path, reply: Reply, problem: str) -> None:
    family, out = tmp_path / "family.txt", tmp_path / "checks.txt"
    family.write_text("Answers questions.")
    with judge_server(lambda prompt: reply) as judge:
        done = tocsin("checklist", family, "-c", configured(tmp_path, judge.url), "-o", out, code=REFUSED)
    assert problem in done.stderr and not out.exists()
