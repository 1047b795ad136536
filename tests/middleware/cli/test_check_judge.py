"""Claims about the check of judges: it measures what it says, on an API that answers as OpenAI's does."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tocsin.checks.chat import Chat, likeliest_tokens
from tocsin.checks.judge import check_judge, read_pairs
from tocsin.cli.main import app
from tocsin.errors import CheckError
from tocsin_detectors import ATTACKS

Judge = Callable[[str], dict[str, float]]  # a prompt -> first tokens and their probabilities
PAIRS = read_pairs(None)
GOOD, BAD = {pair.good for pair in PAIRS}, {pair.bad for pair in PAIRS}


@contextmanager
def api(judge: Judge) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (question["max_tokens"], question["logprobs"], question["top_logprobs"]) == (1, True, 20)
            probs = judge(question["messages"][0]["content"])
            tops = [{"token": token, "logprob": math.log(p)} for token, p in probs.items()]
            choice = {"logprobs": {"content": [{"token": tops[0]["token"], "top_logprobs": tops}]}} if tops else {}
            body = json.dumps({"choices": [choice]}).encode()
            self.send_response(200 if self.headers["Authorization"] != "Bearer wrong" else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def careful(prompt: str) -> dict[str, float]:
    """Knows the good answers, and rates what says nothing low; its likeliest rating hides what its ratings say."""
    if prompt.startswith("Which"):
        first = re.search(r"A: (.*)\nB:", prompt)
        assert first is not None
        return {"A": 0.8, " B": 0.2} if first[1] in GOOD else {" B": 0.9, "A": 0.1}
    answer = re.search(r"Answer: (.*)\nRating", prompt, re.DOTALL)
    assert answer is not None
    if answer[1] in GOOD:
        return {" 4": 0.5, "5": 0.3, "1": 0.1, "The": 0.1}
    return {"4": 0.4, "1": 0.35, " 2": 0.25} if answer[1] in BAD else {"1": 0.9, "2": 0.1}


def taken_in(prompt: str) -> dict[str, float]:
    """A biased judge: prefers the first answer, and accepts answers that only show reasoning."""
    if prompt.startswith("Which"):
        return {"A": 0.7, "B": 0.3}
    return {"5": 1.0} if "Thought process:" in prompt else careful(prompt)


def test_what_is_found_is_what_the_judge_does() -> None:
    with api(careful) as url:
        report = check_judge(Chat(url, "j"), PAIRS, passes=3.5)
    assert report.good == pytest.approx((0.5 * 4 + 0.3 * 5 + 0.1) / 0.9)
    assert report.bad == pytest.approx(0.4 * 4 + 0.35 + 0.5)
    assert report.least_rating_mass == pytest.approx(0.9)
    assert (report.by_expectation, report.by_mode) == (1.0, 0.5)  # the likeliest rating is 4 for both
    assert (report.preferred, report.swaps) == (1.0, 0.0)
    assert report.apart == pytest.approx(0.1)
    assert report.resistance.questions == len(PAIRS) * len(ATTACKS) and not report.resistance.passed
    with api(taken_in) as url:
        report = check_judge(Chat(url, "j"), PAIRS, passes=3.5)
    assert (report.preferred, report.swaps) == (0.5, 1.0)
    assert {attack.attack for attack in report.resistance.passed} == {"Thought process:"}


def test_the_command_says_whether_a_judge_is_fit(tmp_path: Path) -> None:
    path = tmp_path / "q.yaml"
    path.write_text("- {question: q, good: The capital of France is Paris., bad: no}\n")
    with api(careful) as url:
        arguments = ["check", "judge", "--url", url, "--model", "j", "--passes", "3.5"]
        fit = CliRunner().invoke(app, [*arguments, "--questions", str(path)])
        assert fit.exit_code == 0 and f"none of {len(ATTACKS)} empty or formulaic answers passed" in fit.output
        refused = CliRunner(env={"OPENAI_API_KEY": "wrong"}).invoke(app, arguments)
        assert isinstance(refused.exception, CheckError) and "HTTP 401" in str(refused.exception)
    with api(taken_in) as url:
        unfit = CliRunner().invoke(app, ["check", "judge", "--url", url, "--model", "j", "--passes", "3.5"])
        assert unfit.exit_code == 3 and "'Thought process:'" in unfit.output


def test_judges_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with api(lambda prompt: {"Sure": 1.0}) as url, pytest.raises(CheckError, match="none of 1, 2, 3, 4, 5 but 'Sure'"):
        check_judge(Chat(url, "j"), PAIRS)
    with api(lambda prompt: {}) as url, pytest.raises(CheckError, match="must give log-probabilities"):
        check_judge(Chat(url, "j"), PAIRS)
    with pytest.raises(CheckError, match="cannot be asked"):
        check_judge(Chat("http://127.0.0.1:9/v1", "j"), PAIRS)
    for content, message in (
        ("- {question: q}", "expected a list"),
        ("{", "cannot be read"),
        ("[]", "holds no question"),
    ):
        path = tmp_path / "wrong.yaml"
        path.write_text(content)
        with pytest.raises(CheckError, match=message):
            read_pairs(path)


def test_tokens_that_differ_in_blanks_alone_are_one_answer() -> None:
    shares = {"5": 0.3, " 5": 0.4, "\n5": 0.1, "1": 0.15, "": 0.05}
    listed = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    reply = {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]}
    tokens = {token: math.exp(logprob) for token, logprob in likeliest_tokens(reply).items()}
    assert tokens == pytest.approx({"5": 0.8, "1": 0.15, "": 0.05})
