"""Claims about the compiled interception path: what is told to be compiled is there, and is what these tests run."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

from tocsin.protocols.http.scanner import load_scanner
from tocsin.protocols.native_envelope import load_envelope
from tocsin_calibration.thresholds.native_scales import load_scales
from tocsin_detectors.small_graphs.evaluator import load_steps

ROOT = Path(__file__).parents[2]
FILES = [Path(file) for file in runpy.run_path(str(ROOT / "setup.py"))["files"]()]


def test_every_file_that_is_compiled_is_there() -> None:
    assert len(FILES) > 30
    assert [str(file) for file in FILES if not (ROOT / file).exists()] == []


def meant() -> bool:
    """Whether these tests are run on what is compiled."""
    return any(Path(entry).resolve() == ROOT / "build" / "compiled" for entry in sys.path if entry)


def test_tests_run_on_compiled_modules_where_they_are_meant_to() -> None:
    for file in FILES:
        module = importlib.import_module(".".join(file.with_suffix("").parts[1:]))
        assert str(module.__file__).endswith(".py") != meant(), module.__file__


def test_what_is_in_c_is_there_where_modules_are_compiled() -> None:
    if meant():
        assert load_steps() is not None
        assert load_scanner() is not None
        assert load_envelope() is not None
        assert load_scales() is not None


def test_a_build_that_leaves_every_row_to_onnx_runtime_fails_the_check_of_wheels() -> None:
    command = [sys.executable, "-P", ROOT / "benchmarks" / "native_rows.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if meant():
        assert done.returncode == 0 and "scored natively" in done.stdout, done.stderr
    else:
        assert done.returncode == 1 and "no rows are scored natively" in done.stderr, done.stderr
