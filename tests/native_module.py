"""What is written in C, built for tests where Tocsin runs from its source."""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def native_module(name: str, folder: Path) -> Iterator[ModuleType]:
    """A module of setup.py's IN_C: the one that is installed, or built in `folder` with the same options, and imported
    as long as this is entered. Skips where there is no C compiler.
    """
    try:
        yield importlib.import_module(name)
        return
    except ImportError:
        pass
    sys.modules[name] = module = built_module(name, folder)
    try:
        yield module
    finally:
        del sys.modules[name]


def built_module(name: str, folder: Path, *options_of_test: str) -> ModuleType:
    """The same, always built, with further options, and known to nobody else."""
    source, _, options = runpy.run_path(str(ROOT / "setup.py"))["IN_C"][name]
    compiler, headers = shutil.which("cc"), sysconfig.get_paths()["include"]
    if compiler is None or not Path(headers, "Python.h").exists():
        pytest.skip(f"{name} is in C, and there is no compiler for it")
    built = folder / f"{name.rpartition('.')[2]}.abi3.so"
    flags = [*options, *options_of_test, "-shared", "-fPIC", f"-I{headers}"]
    subprocess.run([compiler, *flags, str(ROOT / source), "-o", str(built), "-lm"], check=True)
    spec = importlib.util.spec_from_file_location(name, built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
