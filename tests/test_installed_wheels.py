"""Claim: `make dist` fails where a wheel does not do what it is for, and reports what only takes long."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks import installed
from benchmarks.installed import InstalledWheel

PURE, COMPILED = "tocsin-1.0-py3-none-any.whl", "tocsin-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
PLAIN, NATIVE = "tocsin 1.0", "tocsin 1.0 (compiled)"


def ends_with(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, measured: InstalledWheel) -> int | str | None:
    """The exit code or message of the command where installing the one wheel there is finds this."""
    (folder / name).touch()
    monkeypatch.setattr(installed, "_installed", lambda *parts: measured)
    monkeypatch.setattr(installed, "interpreter", lambda *parts: sys.executable)
    monkeypatch.setattr(sys, "argv", ["installed", "--folder", str(folder), "--json", str(folder / "installed.json")])
    try:
        installed.main()
    except SystemExit as end:
        return end.code
    return None


@pytest.mark.parametrize(
    ("name", "version", "served", "native_rows", "wrong"),
    [
        (PURE, PLAIN, PLAIN, 0, ""),
        (PURE, NATIVE, NATIVE, 0, "is compiled"),
        (PURE, PLAIN, PLAIN, 32, "rows scored natively"),
        (COMPILED, NATIVE, NATIVE, 32, ""),
        (COMPILED, PLAIN, PLAIN, 32, "is compiled"),
        (COMPILED, NATIVE, PLAIN, 32, "is compiled"),
        (COMPILED, NATIVE, NATIVE, 0, "rows scored natively"),
    ],
)
def test_a_wheel_that_is_not_what_its_name_says_fails(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    version: str,
    served: str,
    native_rows: int,
    wrong: str,
) -> None:
    measured = InstalledWheel(1.0, 3.0, 189.0, version, 0.1, 0.3, 0.4, 0.3, served, native_rows)
    end = ends_with(monkeypatch, tmp_path, name, measured)
    assert end is None if not wrong else isinstance(end, str) and f"{name}: {wrong}" in end
    checks = json.loads((tmp_path / "installed.json").read_text())["checks"]
    assert [check["name"] for check in checks if not check["holds"]] == ([f"{name}: {wrong}"] if wrong else [])


def test_a_wheel_that_takes_long_to_import_is_reported_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = InstalledWheel(1.0, 3.0, 189.0, PLAIN, 9.0, 9.0, 9.0, 9.0, PLAIN, 0)
    assert ends_with(monkeypatch, tmp_path, PURE, slow) is None
    checks = json.loads((tmp_path / "installed.json").read_text())["checks"]
    assert [check["holds"] for check in checks] == [True, True, False, False, False, False]
