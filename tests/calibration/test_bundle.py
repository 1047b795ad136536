"""Claims about bundle files: what comes back is what was written, and nothing else is accepted."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks.harness.parts import quick_bundle, safe_traffic

from tocsin_calibration import (
    Bundle,
    BundleError,
    Costs,
    Promise,
    RiskPolicy,
    SessionRule,
    Window,
    calibrate,
    calibrate_sessions,
    fit_risk_policy,
)
from tocsin_calibration import bundle as module


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    path = tmp_path / "x.tocsin"
    quick_bundle(path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def manifest(change: Callable[[dict], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        content = json.loads(members["manifest.json"])
        change(content)
        members["manifest.json"] = json.dumps(content).encode()

    return apply


@pytest.mark.long
def test_what_is_read_judges_like_what_was_written(bundle_path: Path) -> None:
    original = quick_bundle(bundle_path)
    read = Bundle.read(bundle_path)
    later = safe_traffic(200, seed=9)
    assert read.digest == original.digest
    scores = read.scorer(later)
    np.testing.assert_array_equal(scores, original.scorer(later))
    assert read.require_promise().judge(scores) == original.require_promise().judge(scores)
    assert str(read.promise) == str(original.promise)


def promises() -> dict[str, tuple[Promise, RiskPolicy | None]]:
    """One of every kind of promise that a bundle can hold."""
    random = np.random.default_rng(3)
    scores = random.gamma(2, size=(900, 2))
    sessions = [random.gamma(2, size=(12, 2)) for _ in range(150)]
    risk = fit_risk_policy(scores, random.random(900) > 0.3, max_error=0.4)
    alpha = {"warning": 0.1, "critical": 0.05}
    by_kind: dict[str, tuple[Promise, RiskPolicy | None]] = {
        "groups": (calibrate(scores, alpha, groups=["a", "b", "ü"] * 300), None),
        "weights": (calibrate(scores, alpha, weights=random.random(900)), None),
        "learnt": (calibrate(scores, alpha, rule="learnt"), None),
        "half confident": (calibrate(scores[:120], {"warning": 0.1, "critical": 0.03}), None),
        "average": (calibrate(scores, alpha, on_average=True), None),
        "confident": (calibrate(scores, alpha, confidence=0.9), None),
        "contaminated": (calibrate(scores, alpha, contaminated=0.01), None),
        "risk": (calibrate(scores, alpha), risk),
    }
    for style in ("max", "band", "step"):
        rule = SessionRule(Window(3, "sum"), style, every=6)  # type: ignore[arg-type]
        by_kind[style] = (calibrate_sessions(sessions, alpha, session=rule), None)
    return by_kind


@pytest.mark.long
@pytest.mark.parametrize("kind", promises())
def test_every_kind_of_promise_comes_back(bundle_path: Path, kind: str) -> None:
    promise, risk = promises()[kind]
    scorer = Bundle.read(bundle_path).scorer
    Bundle(scorer, promise, risk=risk).write(bundle_path)
    read = Bundle.read(bundle_path)
    again = read.require_promise()
    scores = np.random.default_rng(4).gamma(2.5, size=(60, 2))
    groups = None if kind in ("max", "band", "step") else ["a", "b", "ü", "new"] * 15
    progress = [p.sessions.start() if p.sessions else None for p in (promise, again)]
    before, after = (
        p.judge(scores, groups, None if state is None else [state] * 60)
        for p, state in zip((promise, again), progress, strict=True)
    )
    assert (
        before == after
        and str(promise) == str(again)
        and again.terms == promise.terms
        and (again.pooled, again.unit) == (promise.pooled, promise.unit)
    )
    if risk is not None:
        assert read.risk is not None and read.risk.selective == risk.selective
        assert read.risk.weigh(scores, Costs())[2] == risk.weigh(scores, Costs())[2]


def changed_arrays(**changes: np.ndarray | None) -> Callable[[dict[str, bytes], dict], None]:
    def apply(members: dict[str, bytes], manifest: dict) -> None:
        with np.load(io.BytesIO(members["calibration.npz"])) as arrays:
            content = {**arrays, **changes}
        buffer = io.BytesIO()
        np.savez(buffer, **{name: array for name, array in content.items() if array is not None})
        members["calibration.npz"] = buffer.getvalue()

    return apply


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("groups", lambda m, c: c["calibration"]["groups"].update(a=5), "names groups of"),
        ("groups", changed_arrays(groups=np.full(600, np.nan)), "holds NaN in 'groups'"),
        ("weights", changed_arrays(weights=np.ones(3)), "but 3 weights"),
        ("learnt", changed_arrays(combination=None), "needs weights"),
        ("learnt", changed_arrays(combination=np.array([1.0, -1.0])), "finite and 0 or more"),
        ("confident", lambda m, c: c["calibration"].update(confidence=2), "the confidence must lie"),
        ("band", changed_arrays(spread=np.zeros(6)), "course and spread do not fit"),
        ("band", lambda m, c: c["calibration"]["sessions"].update(style="curve"), "max, band or step, not 'curve'"),
        ("max", lambda m, c: c["calibration"]["sessions"].update(window=0), "at least one score"),
        ("risk", lambda m, c: c["risk"].update(way="magic"), "unknown way 'magic'"),
        ("risk", lambda m, c: c["risk"].update(column=9), "for another graph"),
        ("risk", lambda m, c: c.pop("risk"), "lacks or garbles a field"),
        ("risk", changed_arrays(selective=np.zeros(2)), "lacks or garbles a field"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(
    bundle_path: Path, kind: str, change: Callable[[dict[str, bytes], dict], None], message: str
) -> None:
    promise, risk = promises()[kind]
    Bundle(Bundle.read(bundle_path).scorer, promise, risk=risk).write(bundle_path)
    with pytest.raises(BundleError, match=message):
        Bundle.read(rewritten(bundle_path, resigned(change)))


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    quick_bundle(first)
    quick_bundle(second)
    assert first.read_bytes() == second.read_bytes()


def test_a_fitted_bundle_without_calibration_says_what_to_do(bundle_path: Path) -> None:
    read = Bundle.read(bundle_path)
    Bundle(read.scorer, None).write(bundle_path)
    again = Bundle.read(bundle_path)
    assert again.promise is None
    with pytest.raises(BundleError, match="fitted but not calibrated; run `tocsin calibrate"):
        again.require_promise(bundle_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"scorer.onnx": m["scorer.onnx"][:-1] + b"?"}), "does not match its digest"),
        (lambda m: m.update({"calibration.npz": b"x"}), "does not match its digest"),
        (manifest(lambda m: m["calibration"].update(alphas={"warning": 0.5})), "does not match its digest"),
        (manifest(lambda m: m.update(schema=1)), "has schema 1, but this version reads schema 2"),
        (manifest(lambda m: m.pop("schema")), "names no schema"),
        (lambda m: m.update({"manifest.json": b"{"}), "not JSON"),
        (lambda m: m.update({"manifest.json": b"[]"}), "names no schema"),
        (lambda m: m.pop("scorer.onnx"), "lacks 'scorer.onnx'"),
        (lambda m: m.update({"evil.py": b"x"}), "holds 'evil.py', which no bundle has"),
    ],
)
def test_a_changed_bundle_is_refused(
    bundle_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.read(rewritten(bundle_path, change))
    assert str(caught.value).startswith(str(bundle_path))


def resigned(change: Callable[[dict[str, bytes], dict], None]) -> Callable[[dict[str, bytes]], None]:
    """Apply a change and recompute the digests, as an attacker would."""

    def apply(members: dict[str, bytes]) -> None:
        content = json.loads(members["manifest.json"])
        content.pop("digest")
        change(members, content)
        content["members"] = {n: module._sha256(c) for n, c in members.items() if n != "manifest.json"}
        members["manifest.json"] = json.dumps({"digest": module._digest(content), **content}).encode()

    return apply


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, reference=np.array([{"a": 1}], dtype=object), nonconformity=np.zeros(200))
    return buffer.getvalue()


def other_width() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, reference=np.zeros((30, 5)), nonconformity=np.arange(200.0))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, c: m.update({"calibration.npz": pickled()}), "Object arrays cannot be loaded"),
        (lambda m, c: m.update({"calibration.npz": other_width()}), "was calibrated for another graph"),
        (lambda m, c: m.update({"calibration.npz": b"no zip"}), "'calibration.npz' is damaged"),
        (lambda m, c: m.update({"scorer.onnx": b"no graph"}), "cannot load the scorer's graph"),
        (lambda m, c: c["calibration"].update(rule="most"), "the joint rule is one of"),
        (lambda m, c: c["calibration"].update(alphas={"warning": 0.0001}), "cannot keep alpha"),
        (lambda m, c: c.pop("model"), "lacks or garbles a field"),
        (lambda m, c: m.pop("calibration.npz"), "claims a calibration but lacks"),
    ],
)
def test_even_a_well_signed_bundle_is_checked(
    bundle_path: Path, change: Callable[[dict[str, bytes], dict], None], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        Bundle.read(rewritten(bundle_path, resigned(change)))


def test_members_are_bounded_before_they_are_unpacked(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.LIMITS, module.GRAPH, 1_000)
    with pytest.raises(BundleError, match="over the limit of 1,000"):
        Bundle.read(bundle_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello" * 100])
def test_what_is_no_bundle_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.read(path)
    with pytest.raises(BundleError, match="there is no such file"):
        Bundle.read(tmp_path / "none")


def test_truncation_anywhere_is_an_error_and_nothing_else(bundle_path: Path) -> None:
    content = bundle_path.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 60)):
        bundle_path.write_bytes(content[:length])
        with pytest.raises(BundleError):
            Bundle.read(bundle_path)


def test_writing_where_one_may_not_leaves_nothing(bundle_path: Path, tmp_path: Path) -> None:
    read = Bundle.read(bundle_path)
    with pytest.raises(BundleError, match="cannot be written"):
        read.write(tmp_path / "none" / "x.tocsin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tocsin"]
