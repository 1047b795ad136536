"""Claims about the command before any verb runs: what it lists, and how little it imports."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version

import pytest
from tests.command import tocsin

import tocsin as package
from tocsin import unscored
from tocsin.cli.verbs import VERBS, imported

HEAVY = ("numpy", "onnxruntime", "torch", "grpc", "pydantic", "tocsin_detectors", "tocsin_calibration")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_listed_with_the_first_words_of_its_own_help(verb: str) -> None:
    assert imported(verb).help.split("\n\n")[0].replace("\n", " ") == VERBS[verb]
    assert " ".join(VERBS[verb].split()[:4]) in " ".join(tocsin(verb, "-h").stdout.split())


def test_all_verbs_are_listed() -> None:
    for output in (tocsin("--help").stdout, tocsin("-h").stdout):
        assert all(f" {verb} " in output for verb in VERBS)


def test_the_version_is_the_packages() -> None:
    compiled = "" if str(unscored.__file__).endswith(".py") else " (compiled)"
    runs_on = f"ONNX Runtime {version('onnxruntime')}, Python {platform.python_version()}"
    assert tocsin("--version").stdout == f"tocsin {package.__version__}{compiled}, {runs_on}\n"


def test_a_verb_that_there_is_not_is_told() -> None:
    assert "No such command 'serv'" in tocsin("serv", code=2).stderr


def test_help_waits_for_nothing_that_is_heavy() -> None:
    look = (
        "import sys; sys.argv = ['tocsin', '--help']\n"
        "from tocsin.cli import main\n"
        "try: main()\n"
        f"except SystemExit: print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_the_package_gives_later_is_all_there() -> None:
    for name in package.__all__:
        assert callable(getattr(package, name))
    with pytest.raises(AttributeError, match="no attribute 'guard'"):
        package.guard
