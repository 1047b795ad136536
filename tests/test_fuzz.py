"""Claim: the fuzzer runs, each target takes its seeds and some thousand mutated cases, and none fails.

`make fuzz` feeds a million; this keeps it running, and finds what breaks at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.fuzz.__main__ import run
from benchmarks.fuzz.targets import targets

CASES = 4_000


@pytest.mark.long
def test_some_thousand_cases_fail_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = targets(tmp_path)
    results, failures, _, _ = run(every, CASES, 1)
    assert not failures, capsys.readouterr().out
    assert set(results) == {target.name for target in every}
    assert all(row["cases"] > 0 for row in results.values())
