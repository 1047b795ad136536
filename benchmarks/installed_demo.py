"""`pip install 'tocsin[demo]' && tocsin demo` as a user types it: from the wheel, with no checkout in sight.

make dist && make demo-installed
python -m benchmarks.installed_demo --json installed_demo.json

The wheel comes from `dist/`, everything else from the index that pip is configured with. The environment and the folder
are empty at first, and outside of the checkout. It fails where the demo ran from elsewhere or altered a response. The
number of alarms on safe digits is outside of its interval by chance once in a hundred times: it is reported alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.installed import interpreter
from benchmarks.report import Check, arguments, at_most, console, finish, require

PROGRAM = "import tocsin; print(tocsin.__file__)"


def main() -> None:
    """Install, run the demo, and check where it ran from and what it measured."""
    options = arguments(
        __doc__ or "",
        folder={"type": Path, "default": Path("dist"), "help": "where the wheels are"},
        python={"default": sys.executable, "help": "the interpreter"},
        torch={"default": "torch", "help": "the torch to fit with, as pip takes it"},
    )
    wheels = sorted(options.folder.glob("*-none-any.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{len(wheels)} wheels for every platform in {options.folder}: `make dist` builds one")
    version = wheels[0].name.split("-")[1]
    with tempfile.TemporaryDirectory() as name:
        env, work = Path(name) / "env", Path(name) / "work"
        work.mkdir()
        _typed(work, interpreter(wheels[0], [options.python]), "-m", "venv", env)
        python = env / "bin" / "python"
        links = f"--find-links={options.folder.resolve()}"
        _typed(work, python, "-m", "pip", "install", "--quiet", links, options.torch, f"tocsin[demo]=={version}")
        imported = Path(_typed(work, python, "-c", PROGRAM).strip())
        console.print(_typed(work, env / "bin" / "tocsin", "demo", "--json", work / "demo.json"))
        figures = json.loads((work / "demo.json").read_text())
    safe = figures["safe"]
    least, most = safe["interval"]
    by_chance = Check(
        "alarms on safe digits", float(safe["alarms"]), f"{least} to {most}", least <= safe["alarms"] <= most
    )
    checks = [
        Check("imported from the environment", float(env in imported.parents), "1", env in imported.parents),
        by_chance,
        at_most("responses altered", float(figures["altered_responses"]), 0),
    ]
    finish({"version": version, "demo": figures}, checks, options.json)
    require([check for check in checks if check is not by_chance])


def _typed(folder: Path, *command: str | Path) -> str:
    """What a command prints. Raises SystemExit where it fails."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=surroundings, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
