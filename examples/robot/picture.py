"""A rollout frame by frame, with its scores under it."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from control import Float32, Remote, drive
from tasks import Shift, World

from tocsin_calibration import Bundle
from tocsin_detectors import Observations

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FRAMES, CAMERA, CLOSE = 8, "corner2", np.s_[70:230, 110:270]
TALL = 4.0  # thresholds that the picture of the evidence is high at most


def picture(task: str, policy: Remote, bundle: Path, seed: int, shift: Shift, path: Path) -> None:
    """Roll out once more with a camera, and draw what the monitor saw beside what the robot did."""
    opened, world = Bundle.read(bundle), World(task, CAMERA)
    promise = opened.require_promise(bundle)
    rule = promise.sessions
    assert rule is not None
    frames, rows = [], []

    def watch(answer: dict[str, Float32]) -> None:
        frames.append(world.frame())
        signals = {name: answer[name].reshape(1, -1) for name in opened.scorer.signals}
        rows.append(opened.scorer(Observations(signals))[0])

    outcome = drive(world, policy, f"drawn-{seed}", seed, shift, watch)
    scores = np.array(rows)
    course = rule.course(promise.joint(scores))
    threshold = promise.thresholds["warning"]
    alarmed = np.flatnonzero(course > threshold)
    shown = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
    figure = plt.figure(figsize=(13, 6.2), layout="constrained")
    grid = figure.add_gridspec(4, len(shown), height_ratios=[3, 1.1, 1.1, 1.4])
    for place, at in enumerate(shown):
        axis = figure.add_subplot(grid[0, place])
        axis.imshow(np.rot90(frames[at], 2)[CLOSE])
        stopped = len(alarmed) and at >= alarmed[0]
        axis.set_title(f"query {at}", fontsize=9, color="#b3261e" if stopped else "black")
        axis.set_axis_off()
    lines = [*zip(opened.scorer.detectors, scores.T, strict=True), ("evidence", course)]
    for line, (name, values) in enumerate(lines, 1):
        axis = figure.add_subplot(grid[line, :])
        axis.plot(values, color="#1b4f9c", marker="o", markersize=4)
        axis.set_ylabel(name, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(-0.5, len(frames) - 0.5)
        axis.set_xticks(range(len(frames)) if line == len(lines) else [])
        if line < len(lines):
            axis.axhspan(0, float(np.quantile(promise.reference[:, line - 1], 0.95)), color="#9aa7b5", alpha=0.25)
        else:
            axis.axhline(threshold, color="#b3261e", linestyle="--")
            axis.set_ylim(min(0.0, float(course.min())), min(TALL * threshold, 1.1 * float(course.max())))
            axis.set_xlabel(
                f"query ({'succeeded' if outcome.success else 'failed'}; 8 actions between two)", fontsize=9
            )
        if len(alarmed):
            axis.axvline(alarmed[0], color="#b3261e")
    figure.suptitle(
        f"{task}, {shift.kind} {shift.amount:.2f}: "
        + (f"alarm at query {alarmed[0]} of {len(frames)}" if len(alarmed) else "no alarm"), x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=110)
