"""Claims about the robot demo, in a small version: a real policy on gRPC, real rollouts, a relay that stops them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tocsin_calibration import Bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the demo wrote into."""
    out = tmp_path_factory.mktemp("robot")
    small: dict[str, object] = {"task": "reach-v3", "demonstrations": 60, "epochs": 30, "samples": 64}
    small |= {"rollouts": 70, "each": 2, "alpha": 0.1}
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, ROOT / "examples" / "robot" / "demo.py", "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    logs = "".join(f"\n{log.name}: {log.read_text()[-1000:]}" for log in out.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}{logs}"
    return out


@pytest.fixture(scope="module")
def figures(demo_folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((demo_folder / "demo.json").read_text())
    return content


def test_it_learns_from_rollouts_that_went_well_alone(demo_folder: Path, figures: dict[str, Any]) -> None:
    good = (demo_folder / "good.txt").read_text().split()
    assert good == [f"{row['kind']}-{row['seed']}" for row in figures["recorded"] if row["success"]]
    promise = Bundle.read(demo_folder / "robot.tocsin").require_promise()
    assert promise.unit == "sessions" and promise.detectors == ("rnd", "ace")
    assert promise.n < len(good)  # those that detectors and their scales were fitted on carry nothing


def test_watched_rollouts_are_never_stopped(figures: dict[str, Any]) -> None:
    assert len(figures["watched"]) == 14
    assert not any(row["stopped"] for row in figures["watched"])


def test_an_alarm_stops_the_robot(figures: dict[str, Any]) -> None:
    stopped = [row for row in figures["stopped"] if row["stopped"]]
    assert any(row["kind"] != "usual" for row in stopped)
    assert not any(row["success"] for row in stopped)
    assert f'tocsin_actions_total{{action="block",model="reach-v3"}} {len(stopped)}' in figures["metrics"]
