"""Claims about the tutorials: typed as they stand, from an empty folder, they do and print what they say."""

from __future__ import annotations

import os
import re
import shutil
import site
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from tests.docs.terminal import blocks, terminal

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Typed(NamedTuple):
    """The first tutorial: the folder that it was typed in, the environment of its shell, and what was printed."""

    folder: Path
    environment: dict[str, str]
    printed: str


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """The first tutorial, which installs a checkout into an environment of its own. What that depends on comes from
    the environment of the tests, so that nothing of it is downloaded or built anew.
    """
    folder, checkout = tmp_path_factory.mktemp("tutorial"), tmp_path_factory.mktemp("checkout")
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "benchmarks")
    shutil.copytree(ROOT, checkout, ignore=left_out, dirs_exist_ok=True)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("TOCSIN", "PIP_", "PYTHON"))},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TOCSIN": str(checkout),
        "PYTHONPATH": os.pathsep.join(site.getsitepackages()),
        "PIP_NO_DEPS": "1",
        "PIP_NO_COMPILE": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # which is pip's way to say that there is none
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
    }
    with terminal(folder, environment) as shell:
        return Typed(folder, environment, shell.type_page(DOCS / "tutorial.md"))


def test_the_first_tutorial_ends_in_alarms_on_what_is_no_digit(first: Typed) -> None:
    counts = re.findall(r"(fresh|inverted): (\d+) answers, (\d+) alarms", first.printed)
    shares = {kind: int(alarms) / int(answers) for kind, answers, alarms in counts}
    assert shares["inverted"] > shares["fresh"]
    installed = first.folder / ".venv" / "lib"
    assert list(installed.glob("python*/site-packages/tocsin/service.py"))


def test_the_second_tutorial_stops_a_stream_of_a_service_of_ones_own(first: Typed, tmp_path: Path) -> None:
    environment = {**first.environment, "PATH": f"{first.folder / '.venv' / 'bin'}:{first.environment['PATH']}"}
    with terminal(tmp_path, environment) as shell:
        printed = shell.type_page(DOCS / "tutorial_own_service.md")
    stopped = printed.rpartition("enforce: ")[2]
    assert "place 2:" in stopped and "place 3:" not in stopped and "PERMISSION_DENIED" in stopped


def test_a_guardrails_score_gets_a_promise_that_a_changed_log_breaks(tmp_path: Path) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("TOCSIN")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TOCSIN": str(ROOT),
    }
    with terminal(tmp_path, environment) as shell:
        printed = shell.type_page(DOCS / "guardrails.md")
    rates = {
        name: float(rate) for name, rate in re.findall(r"^(promised|in use).*?\(([0-9.]+)%\)", printed, re.MULTILINE)
    }
    caught = {
        name: int(count) for name, count in re.findall(r"^(promised|in use).*%\s+(\d+) of", printed, re.MULTILINE)
    }
    assert rates["in use"] < rates["promised"] < 2 and caught["promised"] > caught["in use"]


def test_the_checks_for_ci_run_on_the_first_tutorials_bundle(first: Typed) -> None:
    recorded = pq.read_table(first.folder / "safe")
    (first.folder / "fresh").mkdir()
    pq.write_table(recorded.take(list(range(recorded.num_rows))[::-1]), first.folder / "fresh" / "reversed.parquet")
    environment = {**first.environment, "PATH": f"{first.folder / '.venv' / 'bin'}:{first.environment['PATH']}"}
    with terminal(first.folder, environment) as shell:
        assert "advice:" in shell.type_page(DOCS / "ci.md")


def test_the_tests_of_ones_own_pass_on_the_first_tutorials_bundle(first: Typed) -> None:
    environment = {**first.environment, "PATH": f"{first.folder / '.venv' / 'bin'}:{first.environment['PATH']}"}
    (detector,) = [block for block in blocks(DOCS / "detectors.md") if block.file == "largest.py"]
    with terminal(first.folder, environment) as shell:
        shell.write(detector)
        shell.type_page(DOCS / "testing.md")


def test_the_readmes_guarded_channel_prints_its_verdict(first: Typed) -> None:
    environment = {**first.environment, "PATH": f"{first.folder / '.venv' / 'bin'}:{first.environment['PATH']}"}
    (server,) = [block for block in blocks(DOCS / "tutorial.md") if block.file == "server.py"]
    readme_blocks = blocks(ROOT / "README.md")
    program, shown = next(pair for pair in pairwise(readme_blocks) if pair[0].file == "guarded.py")
    with terminal(first.folder, environment) as shell:
        shell.write(server)
        shell.write(program)
        shell.type("python server.py &", "serving digits")
        shell.type("python guarded.py", shown.text)
