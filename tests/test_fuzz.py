"""Claim: the fuzzer runs, each target takes its seeds and some thousand mutated cases, and none fails.

`make fuzz` feeds a million; this keeps it running, and finds what breaks at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.fuzz.__main__ import run
from benchmarks.fuzz.http1 import HttpRelayed
from benchmarks.fuzz.targets import targets

CASES = 4_000


@pytest.mark.long
def test_some_thousand_cases_fail_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = targets(tmp_path)
    results, failures, _, _ = run(every, CASES, 1)
    assert not failures, capsys.readouterr().out
    assert set(results) == {target.name for target in every}
    assert all(row["cases"] > 0 for row in results.values())


def test_a_strict_parser_that_gets_nothing_at_all_is_at_its_end() -> None:
    """The relay may have a connection to a server and nothing to say there, where a caller's request is refused."""
    HttpRelayed.check_sent(b"")
