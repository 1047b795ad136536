"""The compiled module, built for these tests where Tocsin runs from its source."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tocsin_detectors.small_graphs.evaluator import load_steps

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session", autouse=True)
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`_steps`: the one that is installed, or built here with the same flags. Skips where there is no C compiler."""
    setup = runpy.run_path(str(ROOT / "setup.py"))
    name, source = setup["STEPS"]
    if (installed := load_steps()) is not None:
        yield installed
        return
    compiler, headers = shutil.which("cc"), sysconfig.get_paths()["include"]
    if compiler is None or not Path(headers, "Python.h").exists():
        pytest.skip("small graphs are evaluated by a module in C, and there is no compiler for it")
    built = tmp_path_factory.mktemp("steps") / "_steps.abi3.so"
    flags = [*setup["STEPS_FLAGS"], "-shared", "-fPIC", f"-I{headers}"]
    subprocess.run([compiler, *flags, str(ROOT / source), "-o", str(built), "-lm"], check=True)
    spec = importlib.util.spec_from_file_location(name, built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    yield module
    del sys.modules[name]
