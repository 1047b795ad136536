"""A robot policy behind Tocsin: it learns from rollouts that went well, and stops those that are about to fail.

    make demo-robot

A flow-matching policy is trained on demonstrations and served over gRPC; the control loop is its client, through the
relay. A session is a rollout. Watched first (observe), then stopped (enforce); and one rollout that failed is drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

# MuJoCo looks for its way to draw when it is imported: OSMesa needs no screen, and no picture needs neither.
os.environ.setdefault("MUJOCO_GL", "osmesa" if "--picture" in sys.argv else "off")

import grpc
import yaml
from control import Outcome, Remote, drive
from policy import DEMONSTRATIONS, EPOCHS, SAMPLES, make
from tasks import SHIFTS, TASKS, Shift, World

from tocsin.demo.model_server import free_ports

sys.path.append(str(Path(__file__).parents[1]))
from running import fetched, process, run, say, tocsin

SERVER, RELAY, METRICS = free_ports(3)
IDLE = 5  # seconds of silence after which a rollout has ended
HERE = Path(__file__).parent
SESSIONS = ("--sessions", "session")


class Row(NamedTuple):
    """One rollout, and how it came out."""

    kind: str
    shift: Shift
    seed: int
    outcome: Outcome

    def facts(self) -> dict[str, object]:
        """As JSON."""
        return {"kind": self.kind, "amount": self.shift.amount, "seed": self.seed, **self.outcome._asdict()}


def parsed() -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".demo/robot/demo"))
    parser.add_argument("--task", default="push-v3", choices=TASKS)
    parser.add_argument("--rollouts", type=int, default=160, help="as in training, to learn from")
    parser.add_argument("--each", type=int, default=8, help="of each kind, to judge")
    parser.add_argument("--demonstrations", type=int, default=DEMONSTRATIONS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="chunks of actions in an answer")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--picture", action="store_true", help="draw a rollout that failed; needs OSMesa (libosmesa6)")
    return parser.parse_args()


def main() -> None:
    """Train, record, calibrate, watch, stop, and draw."""
    options = parsed()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    task, policy, bundle, config = options.task, out / f"{options.task}.onnx", out / "robot.tocsin", out / "tocsin.yaml"
    if not policy.exists():
        say(f"training a policy for {task} on {options.demonstrations} demonstrations (a minute)")
        make(task, policy, demonstrations=options.demonstrations, epochs=options.epochs)
    for old in (out / "safe").glob("*.parquet"):
        old.unlink()
    world, good = World(task), out / "good.txt"
    with ExitStack() as running:
        server = [sys.executable, HERE / "server.py", policy, "--port", SERVER, "--samples", options.samples]
        running.enter_context(process(server, out / "server.log", f"{task} on"))
        configured(config, task, "observe")
        with process([*tocsin("record"), "-c", config, "-o", out / "safe"], out / "record.log", "recording:"):
            say(f"{options.rollouts} rollouts as in training, recorded")
            done = roll(world, [("usual", 1_000 + at) for at in range(options.rollouts)])
            went_well = [f"{row.kind}-{row.seed}" for row in done if row.outcome.success]
            good.write_text("\n".join(went_well) + "\n")
            print(f"{len(went_well)} succeeded: {good}")
        run("fit", out / "safe", "-o", bundle, "-d", "rnd", "-d", "ace", *SESSIONS, "--share", "0.3", "--only", good)
        settings = ["--style", "band", "--rule", "learnt", "--warning", options.alpha, "--critical", options.alpha / 2]
        settings.append("--on-average")  # with so few rollouts, one calibration's own rate is promised at a price
        run("calibrate", bundle, out / "safe", *SESSIONS, "--only", good, *settings)
        judged = [(kind, 2_000 + at) for kind in ("usual", *SHIFTS) for at in range(options.each)]
        configured(config, task, "observe")
        with process([*tocsin("serve"), "-c", config], out / "observe.log", "->"):
            say(f"{len(judged)} new rollouts, most of them shifted, watched")
            watched = roll(world, judged)
            if options.picture:
                from picture import picture

                failed = sorted(
                    (row for row in watched if not row.outcome.success), key=lambda row: row.kind != "pushed"
                )
                for row in failed[:1]:
                    with grpc.insecure_channel(f"127.0.0.1:{RELAY}") as channel:
                        picture(task, Remote(channel, task), bundle, row.seed, row.shift, out / "failure.png")
                    say(f"a rollout that failed, frame by frame: {out / 'failure.png'}")
        configured(config, task, "enforce")
        with process([*tocsin("serve"), "-c", config], out / "enforce.log", "->"):
            say("the same again, and now stopped")
            stopped = roll(world, judged)
            time.sleep(IDLE + 1)  # then all sessions have ended, and count
            metrics = fetched(f"http://127.0.0.1:{METRICS}/metrics")
    show(watched, stopped)
    counted = [line for line in metrics.splitlines() if line.startswith(("tocsin_actions_", "tocsin_sessions_"))]
    print("\n".join(counted))
    told_of = {"recorded": done, "watched": watched, "stopped": stopped}
    facts = {name: [row.facts() for row in rows] for name, rows in told_of.items()}
    (out / "demo.json").write_text(json.dumps({"metrics": counted, **facts}, indent=1) + "\n")


def roll(world: World, wanted: Iterable[tuple[str, int]]) -> list[Row]:
    """Rollouts of these kinds and seeds, through the relay."""
    rows = []
    with grpc.insecure_channel(f"127.0.0.1:{RELAY}") as channel:
        for kind, seed in wanted:
            shift = Shift.drawn(world.task, kind, seed)
            outcome = drive(world, Remote(channel, world.task), f"{kind}-{seed}", seed, shift)
            rows.append(Row(kind, shift, seed, outcome))
    return rows


def configured(config: Path, task: str, mode: str) -> None:
    model = {
        "bundle": "robot.tocsin", "session": "metadata.x-session-id", "session_idle": f"{IDLE}s",
        "on_alarm": {"warning": "block", "critical": "block"},
        "signals": {"actions": "response.outputs.actions", "embedding": "response.outputs.embedding"},
    }  # fmt: skip
    config.write_text(yaml.safe_dump({
        "listen": f"127.0.0.1:{RELAY}", "upstream": f"127.0.0.1:{SERVER}", "mode": mode, "admin": None,
        "metrics": f"127.0.0.1:{METRICS}", "models": {task: model},
    }))  # fmt: skip


def show(watched: list[Row], stopped: list[Row]) -> None:
    """What came of the same rollouts, watched and stopped."""
    counts: dict[str, Counter[str]] = {}
    for before, after in zip(watched, stopped, strict=True):
        row = counts.setdefault(before.kind, Counter())
        row["failed" if not before.outcome.success else "succeeded"] += 1
        if after.outcome.stopped:
            row["stopped, would fail" if not before.outcome.success else "stopped, would succeed"] += 1
    columns = ("succeeded", "stopped, would succeed", "failed", "stopped, would fail")
    print("\n" + "".join(f"{name:>24}" for name in ("rollouts", *columns)))
    for kind, row in counts.items():
        print(f"{kind:>24}" + "".join(f"{row[name]:>24}" for name in columns))


if __name__ == "__main__":
    main()
