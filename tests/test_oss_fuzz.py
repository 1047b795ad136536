"""Claim: what OSS-Fuzz runs to build finds every target that `make fuzz-atheris` feeds, and packs each with its cases.

The builder's commands are stand-ins here: they write down what they are asked to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "fuzz" / "oss-fuzz"
PACKAGES = ("middleware", "calibration", "detectors")
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$OUT/log"
"""


@pytest.mark.long
def test_each_target_is_built_with_its_first_cases(tmp_path: Path) -> None:
    source, out, commands = (tmp_path / name for name in ("src", "out", "commands"))
    for folder in (source, out, commands):
        folder.mkdir()
    here = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    for name, text in (*((name, STAND_IN) for name in ("pip3", "clang", "compile_python_fuzzer")), ("python3", here)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    variables = {"SRC": str(source), "OUT": str(out), "CC": "clang", "CFLAGS": "-O1 -fsanitize=address"}
    path = f"{commands}:{os.environ['PATH']}"
    environment = {**os.environ, **variables, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([FOLDER / "build.sh"], cwd=ROOT, env=environment, check=True)
    fuzzed = subprocess.run(["make", "--silent", "fuzzed"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in fuzzed.stdout.split():
        assert (source / f"fuzz_{name}.py").read_text() == (FOLDER / "fuzz_target.py").read_text()
        with zipfile.ZipFile(out / f"fuzz_{name}_seed_corpus.zip") as cases:
            assert cases.namelist(), name
    log = (out / "log").read_text().splitlines()
    packed = [Path(line.split()[1]).stem for line in log if line.startswith("compile_python_fuzzer ")]
    assert packed == [f"fuzz_{name}" for name in fuzzed.stdout.split()]
    compilations = [line.split() for line in log if line.startswith("clang ")]
    sources = {word for words in compilations for word in words if word.endswith(".c")}
    assert sources == {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.c")}
    assert all("-fsanitize=address" in words for words in compilations)
    assert all("-ffp-contract=off" in words for words in compilations if words[-2].endswith("_steps.abi3.so"))


def test_the_project_is_described_as_oss_fuzz_wants_it() -> None:
    project = yaml.safe_load((FOLDER / "project.yaml").read_text())
    assert (project["language"], project["fuzzing_engines"]) == ("python", ["libfuzzer"])
    assert set(project["sanitizers"]) == {"address", "undefined"}
    assert {"homepage", "main_repo", "primary_contact"} <= project.keys()
    assert (FOLDER / "Dockerfile").read_text().startswith("FROM gcr.io/oss-fuzz-base/base-builder-python")
