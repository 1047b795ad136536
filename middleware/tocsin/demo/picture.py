"""The demo's picture: each detector's scores on safe and on strange inputs, with the level at which it alarms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tocsin.demo.findings import Findings

INK, SAFE, ALARM = "#1f2933", "#2a7f8e", "#c2412d"
SHADES = ("#e0823d", "#c2412d", "#8c2f39", "#b58ca5", "#8d99ae", "#d4a72c")
TITLES = {
    "entropy": ("entropy", "nats"),
    "energy": ("energy", "logit units"),
    "mahalanobis": ("Mahalanobis distance of the hidden layer", "squared deviations"),
    "rnd": ("random network distillation on the pixels", "distance"),
}


def draw(findings: Findings, path: Path) -> None:
    """Write the picture as PNG. What matplotlib keeps about fonts lies beside it, not in the home folder."""
    os.environ.setdefault("MPLCONFIGDIR", str(path.parent / "matplotlib"))
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    promise = findings.promise
    limits = promise.detector_thresholds("warning")
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": "#c5ccd3", "text.color": INK, "axes.labelcolor": INK})
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.2), layout="constrained")
    kinds = [kind for kind in findings.scores if kind != "safe"]
    for column, (name, ax) in enumerate(zip(promise.detectors, axes.flat, strict=True)):
        by_kind = {kind: scores[:, column] for kind, scores in findings.scores.items()}
        every = np.concatenate(list(by_kind.values()))
        shift = min(0.0, float(every.min())) - 1e-3 if name in ("energy", "entropy") else 0.0
        wide = name not in ("energy", "entropy")
        low, high = (max(float(every.min()), 1e-3), float(every.max())) if wide else (shift, float(every.max()))
        bins = np.geomspace(low, high, 50) if wide else np.linspace(low, high, 50)
        ax.hist(by_kind["safe"], bins, density=False, color=SAFE, alpha=0.85, weights=_shares(by_kind["safe"]))
        for kind, colour in zip(kinds, SHADES, strict=False):
            ax.hist(by_kind[kind], bins, histtype="step", color=colour, linewidth=1.4, weights=_shares(by_kind[kind]))
        if wide:
            ax.set_xscale("log")
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.axvline(limits[name], color=INK, linestyle="--", linewidth=1)
        title, unit = TITLES.get(name, (name, "score"))
        ax.set_title(title, loc="left", fontweight="bold")
        ax.set_xlabel(unit)
        ax.set_ylabel("share of responses")
        ax.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=SAFE)]
    handles += [plt.Line2D([], [], color=colour) for colour in SHADES[: len(kinds)]]
    handles += [plt.Line2D([], [], color=INK, linestyle="--")]
    alarmed = [f"{kind} ({findings.kinds[kind]:.0%} alarmed)" for kind in kinds]
    caption = f"{findings.safe_alarms / findings.safe:.1%} alarmed, {promise.alphas['warning']:.0%} promised"
    figure.legend(
        handles,
        [f"held-out digits ({caption})", *alarmed, "alarm from here on"],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.suptitle("What each detector sees, and where the promise puts the line", fontsize=13, fontweight="bold")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _shares(values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.full(len(values), 1 / len(values))
