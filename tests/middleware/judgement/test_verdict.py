"""Claims about the verdict's way through metadata."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tocsin.verdict import ROWS_TOLD, Verdict, Weighed

names = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20)
probabilities = st.floats(1e-6, 1)
severity = st.sampled_from([None, "warning", "critical"])


@given(names, names, st.lists(st.tuples(probabilities, severity), min_size=1, max_size=100), st.data())
def test_a_verdict_survives_metadata(
    model: str, version: str, rows: list[tuple[float, str | None]], data: st.DataObject
) -> None:
    detectors = tuple(data.draw(st.lists(names, min_size=1, max_size=4, unique=True)))
    details = data.draw(st.lists(probabilities, min_size=len(detectors), max_size=len(detectors)))
    pvalues, severities = [p for p, _ in rows], [s for _, s in rows]
    worst = "critical" if "critical" in severities else "warning" if "warning" in severities else None
    verdict = Verdict(model, version, "sha256:" + "a" * 64, pvalues, severities, detectors, details, worst)
    text = verdict.to_metadata()
    assert text.isascii() and text.isprintable()
    read = Verdict.from_metadata(text)
    assert (read.model, read.version, read.severity, read.action) == (model, version, worst, verdict.action)
    assert verdict.bundle.startswith(read.bundle) and read.bundle
    assert [f"{p:.4g}" for p in read.pvalues] == [f"{float(f'{p:.6g}'):.4g}" for p in pvalues[:64]]
    assert read.by_detector.keys() == verdict.by_detector.keys()
    if len(rows) <= 64:
        assert read.severities == severities


@given(st.integers(1, 5000))
def test_metadata_of_a_large_batch_stays_small(rows: int) -> None:
    verdict = Verdict("m", "v", "sha256:0", [0.123456] * rows, ["critical"] * rows, ("entropy",), [0.5], "critical")
    text = verdict.to_metadata()
    assert len(text) < 4096
    assert json.loads(text).get("rows", 1) == rows


@given(st.lists(st.tuples(probabilities, severity), min_size=1, max_size=300), st.booleans(), st.integers(100, 6_000))
def test_what_is_kept_of_many_rows_is_told_alike(
    rows: list[tuple[float, str | None]], is_weighed: bool, limit: int
) -> None:
    pvalues, severities = [p for p, _ in rows], [s for _, s in rows]
    worst = "critical" if "critical" in severities else "warning" if "warning" in severities else None
    weighed = Weighed(pvalues, pvalues, ["serve"] * len(rows)) if is_weighed else None
    verdict = Verdict("m", "1", "sha256:0", pvalues, severities, ("entropy",), [0.5], worst, weighed)
    before = verdict.to_metadata(), verdict.shortened(limit), verdict.rank, verdict.alarm
    verdict.keep_told()
    assert (verdict.to_metadata(), verdict.shortened(limit), verdict.rank, verdict.alarm) == before
    assert len(verdict.pvalues) <= ROWS_TOLD
    assert len([severity for severity in verdict.severities if severity]) <= ROWS_TOLD
