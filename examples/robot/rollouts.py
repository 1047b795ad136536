"""Rollouts of trained policies: what the policy was asked and answered, and how it came out.

    pip install -e '.[robot]'
    python examples/robot/rollouts.py .demo/robot           # every task; ten minutes on two cores, kept for later

Of each query it keeps the embedding and all sampled chunks, which is what a monitor sees on the wire.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from policy import Served, make
from tasks import EXECUTED, SHIFTS, TASKS, Shift, World

USUAL, SHIFTED = 330, 50  # rollouts of each task: as in training, and of each kind of shift


class Rollout(NamedTuple):
    """One attempt: T queries with embeddings (T, E) and chunks (T, S, 16, 4), and the step of each (T,)."""

    kind: str
    success: bool
    steps: int
    embeddings: NDArray[np.float32]
    chunks: NDArray[np.float16]
    query_steps: NDArray[np.int32]


def roll_out(world: World, policy: Served, kind: str, seed: int) -> Rollout:
    """One attempt at a task, the policy's first sample done."""
    episode = world.begin(seed, Shift.drawn(world.task, kind, seed))
    embeddings, chunks, query_steps = [], [], []
    while not episode.has_ended:
        query_steps.append(episode.steps)
        actions, embedding = policy(episode.observe())
        embeddings.append(embedding)
        chunks.append(actions.astype(np.float16))
        for action in actions[0, :EXECUTED].astype(np.float64):
            episode.act(action)
            if episode.has_ended:
                break
    return Rollout(
        kind, episode.success, episode.steps, np.array(embeddings), np.array(chunks), np.array(query_steps, np.int32)
    )


def collect(task: str, folder: Path, usual: int, shifted: int, seed: int = 0) -> str:
    """Train the task's policy where there is none yet, and write its rollouts."""
    torch.set_num_threads(1)
    began, model, path = time.monotonic(), folder / f"{task}.onnx", folder / f"{task}.npz"
    if not model.exists():
        make(task, model, seed)
    if path.exists():
        return f"{task}: kept"
    world, policy, first = World(task), Served(model, seed=seed + 1), 100_000 * seed
    rollouts = [roll_out(world, policy, "usual", first + episode) for episode in range(usual)]
    for at, kind in enumerate(SHIFTS, 1):
        rollouts += [roll_out(world, policy, kind, first + 10_000 * at + episode) for episode in range(shifted)]
    write(path, rollouts)
    success = {
        kind: np.mean([rollout.success for rollout in rollouts if rollout.kind == kind]) for kind in ("usual", *SHIFTS)
    }
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in success.items())
    return f"{task}: {len(rollouts)} rollouts, success {shares}; {time.monotonic() - began:.0f} s"


def write(path: Path, rollouts: list[Rollout]) -> None:
    """Keep rollouts in one file."""
    staged = path.with_suffix(".part.npz")
    np.savez(
        staged,
        kinds=[rollout.kind for rollout in rollouts],
        success=[rollout.success for rollout in rollouts],
        steps=[rollout.steps for rollout in rollouts],
        lengths=[len(rollout.query_steps) for rollout in rollouts],
        embeddings=np.concatenate([rollout.embeddings for rollout in rollouts]),
        chunks=np.concatenate([rollout.chunks for rollout in rollouts]),
        asked=np.concatenate([rollout.query_steps for rollout in rollouts]),
    )
    staged.replace(path)


def read(path: Path) -> list[Rollout]:
    """The rollouts of a file."""
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    ends = np.cumsum(content["lengths"])
    rollouts = []
    for at, end in enumerate(ends.tolist()):
        rows = slice(end - int(content["lengths"][at]), end)
        rollouts.append(
            Rollout(
                str(content["kinds"][at]), bool(content["success"][at]), int(content["steps"][at]),
                content["embeddings"][rows], content["chunks"][rows], content["asked"][rows],
            )
        )  # fmt: skip
    return rollouts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--usual", type=int, default=USUAL)
    parser.add_argument("--shifted", type=int, default=SHIFTED)
    parser.add_argument("--seed", type=int, default=0, help="of demonstrations, training and episodes")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = [
            pool.submit(collect, task, options.folder, options.usual, options.shifted, options.seed)
            for task in options.tasks
        ]
        for job in jobs:
            print(job.result(), flush=True)


if __name__ == "__main__":
    main()
