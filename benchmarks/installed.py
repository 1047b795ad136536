"""What a user installs: each wheel in an empty environment, guarding a real server, with its sizes and start times.
A compiled one must score a small bundle's rows natively.

make dist                                          # builds dist/, and ends with this
python -m benchmarks.installed --pythons python3.11 python3.12 --json installed.json

A compiled wheel is tried with the interpreter of `--pythons` that it was compiled for, others with the first of them.

It fails where a wheel does not do what it is for, so that no release is made of it: where one cannot be installed or
does not judge, is not compiled as its name says, or does not score natively. What takes longer than it should is
reported as NO in the last table, and fails nothing.

Dependencies come from the index that pip is configured with. Times are CPU seconds, user and system, medians of
processes that begin anew. Importing is measured of `tocsin` alone, and of what whoever makes a guard imports: what the
importing thread takes, and in brackets what all threads do: numpy starts one for each core, and these look for work for
a while.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml
from rich.table import Table

import tocsin
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, at_once, free_port, inference, quick_bundle, safe_traffic
from benchmarks.report import Check, arguments, at_most, console, finish, require

IMPORT_SECONDS, COMMAND_SECONDS = 0.5, 0.4
MB = 1e6


class InstalledWheel(NamedTuple):
    """One wheel, installed."""

    wheel_mb: float
    own_mb: float  # of the installed project
    all_mb: float  # with its dependencies, without pip
    version: str
    import_alone_s: float
    import_s: float  # with tocsin.Guard
    import_all_s: float  # of all threads
    command_s: float
    served: str  # what its relay said when it began
    native_rows: int  # of that relay's bundle, scored without ONNX Runtime at a time


def main() -> None:
    """Install, measure, print and check."""
    options = arguments(
        __doc__ or "",
        folder={"type": Path, "default": Path("dist"), "help": "where the wheels are"},
        pythons={"nargs": "+", "default": [sys.executable], "help": "interpreters that wheels are tried with"},
        rounds={"type": int, "default": 9, "help": "processes that are timed"},
    )
    wheels = sorted(options.folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"no wheels in {options.folder}: `make dist` builds them")
    results: dict[str, Any] = {}
    works: list[Check] = []
    costs: list[Check] = []
    table = Table(
        "wheel",
        "wheel, MB",
        "installed, MB",
        "with all it needs, MB",
        "import tocsin, CPU s",
        "tocsin.Guard, CPU s",
        "tocsin --help, CPU s",
    )
    for wheel in wheels:
        python = interpreter(wheel, options.pythons)
        with tempfile.TemporaryDirectory() as folder:
            measured = _installed(wheel, python, Path(folder), options.rounds)
        results[wheel.name] = measured._asdict()
        of_guard = f"{measured.import_s:.2f} ({measured.import_all_s:.2f})"
        times = f"{measured.import_alone_s:.2f}", of_guard, f"{measured.command_s:.2f}"
        table.add_row(wheel.name, *(f"{size:.1f}" for size in measured[:3]), *times)
        works += _works(wheel.name, measured)
        costs.append(at_most(f"{wheel.name}: import tocsin, s", measured.import_alone_s, IMPORT_SECONDS))
        costs.append(at_most(f"{wheel.name}: with tocsin.Guard, its thread, s", measured.import_s, IMPORT_SECONDS))
        costs.append(at_most(f"{wheel.name}: with tocsin.Guard, s", measured.import_all_s, IMPORT_SECONDS))
        costs.append(at_most(f"{wheel.name}: tocsin --help, s", measured.command_s, COMMAND_SECONDS))
    console.print(table)
    finish(results, works + costs, options.json)
    require(works)


def _works(name: str, measured: InstalledWheel) -> list[Check]:
    """Whether a wheel is what its name says: what is compiled, and scores natively, or neither of both."""
    pure = name.endswith("-none-any.whl")
    says_so = "(compiled)" in measured.version and "(compiled)" in measured.served
    native, wanted = measured.native_rows, "0" if pure else ">= 1"
    return [
        Check(f"{name}: is compiled", float(says_so), "0" if pure else "1", says_so != pure),
        Check(f"{name}: rows scored natively", float(native), wanted, bool(native) != pure),
    ]


def interpreter(wheel: Path, pythons: Sequence[str]) -> str:
    """The first of these interpreters that the wheel is for. Raises SystemExit where there is none."""
    tag = wheel.stem.split("-")[-3]
    version = "import sys; print('cp%d%d' % sys.version_info[:2])"
    for python in pythons:
        if tag.startswith("py3") or _run(python, "-c", version).strip() == tag:
            return python
    raise SystemExit(f"none of {', '.join(pythons)} can install {wheel.name}: give --pythons one that can")


def _installed(wheel: Path, base: str, folder: Path, rounds: int) -> InstalledWheel:
    _run(base, "-m", "venv", folder / "env")
    python = folder / "env" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel.resolve())
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools")
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    own_bytes = sum(_size(path) for path in packages.glob("*tocsin*"))
    command = python.with_name("tocsin")
    version = _run(command, "--version").strip()
    importing = "import time, tocsin; tocsin.Guard; print(time.thread_time())"
    import_s = statistics.median([float(_run(python, "-c", importing)) for _ in range(rounds + 1)][1:])
    import_all_s = _cpu_seconds(rounds, python, "-c", importing)
    import_alone_s = _cpu_seconds(rounds, python, "-c", "import tocsin")
    command_s = _cpu_seconds(rounds, command, "--help")
    served = _served(command, folder)
    shown = _run(command, "bundle", "show", folder / "quick.tocsin")
    native_rows = int(natively[1]) if (natively := re.search(r"up to (\d+)\s+natively", shown)) else 0
    sizes = wheel.stat().st_size / MB, own_bytes / MB, _size(packages) / MB
    return InstalledWheel(
        *sizes, version, import_alone_s, import_s, import_all_s, command_s, served, native_rows
    )  # fmt: skip


def _served(command: Path, folder: Path) -> str:
    """What the installed relay logs when it begins; it must judge a real server's response as well."""
    quick_bundle(folder / "quick.tocsin")
    answer, port = inference(safe_traffic(1), slice(0, 1)), free_port()
    with model_server() as (model, address):
        model.answers = {b"safe": answer}
        config = {
            "listen": f"127.0.0.1:{port}", "upstream": address, "mode": "annotate", "metrics": None, "admin": None,
            "scoring_budget": "60s", "models": {"digits": {"bundle": "quick.tocsin", "signals": SIGNALS}},
        }  # fmt: skip
        (folder / "tocsin.yaml").write_text(yaml.safe_dump(config))
        environment = {name: value for name, value in at_once().items() if name != "PYTHONPATH"}
        serving = subprocess.Popen(
            [command, "serve"], cwd=folder, stderr=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                ask = channel.unary_unary(INFER)
                response, call = ask.with_call(b"safe", timeout=60, wait_for_ready=True)
        finally:
            serving.terminate()
            _, log = serving.communicate(timeout=60)
    verdict = tocsin.verdict(call)
    if response != answer or verdict is None or verdict.unscored is not None:
        raise SystemExit(f"{command} did not judge a response: {verdict}\n{log}")
    return log


def _size(folder: Path) -> int:
    """Bytes of a file, or of the files in a folder, without bytecode."""
    files = (path for path in (folder, *folder.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files)


def _cpu_seconds(rounds: int, *command: str | Path) -> float:
    times = []
    for _ in range(rounds + 1):  # the first writes bytecode
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run(*command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(times[1:])


def _run(*command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
