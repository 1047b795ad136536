"""The detectors: equal to independent implementations, good at telling, and fast in one graph.

Equality with torch in float64 and with pytorch-ood on the features of a real classifier; AUROC of every detector that
applies on pairs of safe and shifted responses; and the time of one graph of six detectors beside the same six of
pytorch-ood one by one, one thread each, interleaved in one run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from rich.table import Table
from scipy.special import softmax

from benchmarks import shifts
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin_detectors import Observations, Scorer, compile
from tocsin_detectors.registry import parse
from tocsin_detectors.separation import separation
from tocsin_detectors.suggest import suggest

WITH_KNN = ["entropy", "energy", "max_softmax", "mahalanobis", "knn,bank=2000", "vim"]
BY_CLASS = ["relative_mahalanobis" if name == "mahalanobis" else name for name in WITH_KNN]
WITHOUT_KNN = [name for name in WITH_KNN if not name.startswith("knn")]
BATCHES = (1, 8, 64)


def main() -> None:
    options = arguments(
        __doc__ or "", rounds={"type": int, "default": 60, "help": "how often each implementation is timed"}
    )
    torch.set_num_threads(1)
    x, y = shifts.mnist()
    show = shifts.classifier(x[:2000], y[:2000])
    safe, later = softened(show(x[2000:4000])), softened(show(np.vstack([x[4000:], shifts.patches(28, 500)])))
    peers = Peers(safe)
    results: dict[str, Any] = {}
    checks: list[Check] = []
    results["equality"], more = equality(safe, later, peers)
    checks += more
    results["speed"], more = speed(safe, later, peers, options.rounds)
    checks += more
    results["detection"], more = detection()
    checks += more
    results["economies"] = economies(safe, later)
    took = statistics.median(_import_seconds() for _ in range(7))
    results["import_seconds"] = took
    checks.append(at_most("import tocsin_detectors, seconds", took, 0.3))
    finish(results, checks, options.json)


def softened(shown: Observations) -> Observations:
    """With logits a quarter as large: pytorch-ood clips probabilities at 1e-7, which a sure network falls below."""
    logits = shown["logits"] / 4
    return Observations({"probs": softmax(logits, axis=1), "logits": logits, "embedding": shown["embedding"]})


class Peers:
    """Detectors of pytorch-ood fitted on the same responses. Each maps (logits, features) to scores, higher = worse."""

    def __init__(self, safe: Observations) -> None:
        library = torch.library.Library("torchvision", "DEF")  # operators that torchvision lacks without its binaries
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from pytorch_ood import detector as ood

        self._library = library
        features, logits = torch.from_numpy(safe["embedding"]), torch.from_numpy(safe["logits"])
        self.centre = features.mean(dim=0)
        centred, top = features - self.centre, logits.argmax(dim=1)
        ones = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        layer = torch.linalg.lstsq(ones.double(), logits.double(), driver="gelsd").solution.float()
        mahalanobis, relative = (make(None).fit_features(features, top) for make in (ood.Mahalanobis, ood.RMD))
        knn = ood.KNN(None, k=10).fit_features(features, top)
        knn.knn.set_params(n_jobs=1)
        entropy, energy, most = ood.Entropy(None), ood.EnergyBased(None), ood.MaxSoftmax(None)
        max_logit, gen = ood.MaxLogit(None), ood.GEN(None)
        # Its origin is where the layer's logits vanish; with the bias left out that is 0, so centred features serve.
        share = np.cumsum(np.linalg.eigvalsh(np.cov(centred.numpy().T, bias=True))[::-1])
        dimensions = int(np.searchsorted(share / share[-1], 0.95)) + 1
        vim = ood.ViM(None, dimensions, layer[:-1].T, torch.zeros(logits.shape[1]))
        bias = layer[:-1].T @ self.centre + layer[-1]
        vim.b = bias  # logits of centred features
        vim.fit_features(centred, top)
        self.same: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
            "entropy": lambda z, x: entropy.predict_logits(z),
            "energy": lambda z, x: energy.predict_logits(z),
            "max_softmax": lambda z, x: 1 + most.predict_logits(z),
            "max_logit": lambda z, x: max_logit.predict_logits(z),
            "gen": lambda z, x: z.shape[1] * gen.predict_logits(z),
            "knn": lambda z, x: knn.predict_features(x),
            "vim": lambda z, x: vim.predict_features(x - self.centre),
        }
        self.timed = [
            *(self.same[name] for name in ("entropy", "energy", "max_softmax", "knn", "vim")),
            lambda z, x: mahalanobis.predict_features(x),
        ]
        self.relative = lambda z, x: relative.predict_features(x)


def equality(safe: Observations, later: Observations, peers: Peers) -> tuple[dict[str, float], list[Check]]:
    """The largest difference, relative to the score or, where that is smaller, to its median size."""
    later = later.take(np.flatnonzero(later["probs"].min(axis=1) > 1e-6))
    logits, features = (torch.from_numpy(later[name]) for name in ("logits", "embedding"))
    ours = {spec: compile([parse(spec)], fit_on=safe)(later)[:, 0] for spec in peers.same}
    differences, checks = {}, []
    for name, peer in peers.same.items():
        apart = _apart(ours[name], peer(logits, features).numpy())
        differences[f"{name}, pytorch-ood (float32)"] = apart
        checks.append(Check(f"{name} beside pytorch-ood: relative difference", apart, "<= 1e-04", apart <= 1e-4))
    for name, exact in _in_float64(safe, later).items():
        apart = _apart(compile([parse(name)], fit_on=safe)(later)[:, 0], exact)
        differences[f"{name}, torch (float64)"] = apart
        checks.append(Check(f"{name} beside torch: relative difference", apart, "<= 1e-05", apart <= 1e-5))
    table = Table("detector, reference", "relative difference", title="Equality")
    for name, difference in differences.items():
        table.add_row(name, f"{difference:.1e}")
    console.print(table)
    return differences, checks


def _in_float64(safe: Observations, later: Observations) -> dict[str, np.ndarray]:
    """Scores by torch in float64, from what the detectors have learnt."""
    rnd, mahalanobis = parse("rnd").fit(safe), parse("mahalanobis").fit(safe)
    x = torch.from_numpy(later["embedding"]).double()

    def through(layers: Any) -> torch.Tensor:
        rows = x
        for weights, bias in layers[:-1]:
            rows = torch.relu(rows @ torch.from_numpy(weights).double() + torch.from_numpy(bias).double())
        return rows @ torch.from_numpy(layers[-1][0]).double() + torch.from_numpy(layers[-1][1]).double()

    white = torch.from_numpy(mahalanobis._whiten)  # type: ignore[attr-defined]
    centred = x - torch.from_numpy(mahalanobis._mean)  # type: ignore[attr-defined]
    apart = through(rnd._predictor) - through(rnd._target)  # type: ignore[attr-defined]
    residual = parse("vim").fit(safe)._virtual  # type: ignore[attr-defined]
    outside = (x - torch.from_numpy(residual._mean)) @ torch.from_numpy(residual._outside)
    logits = torch.from_numpy(later["logits"]).double()
    probs = torch.from_numpy(later["probs"]).double()
    return {
        "entropy": torch.distributions.Categorical(probs).entropy().numpy(),
        "energy": -torch.logsumexp(logits, dim=1).numpy(),
        "mahalanobis": (centred @ white).square().sum(dim=1).numpy(),
        "rnd": apart.norm(dim=1).numpy(),
        "vim": outside.norm(dim=1).numpy() - torch.logsumexp(logits, dim=1).numpy(),
    }


def _apart(got: np.ndarray, expected: np.ndarray) -> float:
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    return float((np.abs(got - expected) / np.maximum(np.abs(expected), np.median(np.abs(expected)))).max())


def speed(
    safe: Observations, later: Observations, peers: Peers, rounds: int
) -> tuple[dict[str, dict[str, float]], list[Check]]:
    """Microseconds a response: one graph, and pytorch-ood one by one on the same features; Python's calls included."""
    graphs = {
        "one graph": compile([parse(spec) for spec in WITH_KNN], fit_on=safe),
        "one graph, Mahalanobis by class and relative": compile([parse(spec) for spec in BY_CLASS], fit_on=safe),
        "one graph without kNN": compile([parse(spec) for spec in WITHOUT_KNN], fit_on=safe),
    }
    results: dict[str, dict[str, float]] = {name: {} for name in [*graphs, "pytorch-ood one by one"]}
    for batch in BATCHES:
        rows = later.take(slice(0, batch))
        tensors = torch.from_numpy(rows["logits"]), torch.from_numpy(rows["embedding"])
        runs = {name: _run(scorer, rows) for name, scorer in graphs.items()}
        runs["pytorch-ood one by one"] = partial(_one_by_one, peers.timed, tensors)
        durations: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                repeats = 20 if name.startswith("one") else 3
                started = time.perf_counter()
                for _ in range(repeats):
                    run()
                durations[name].append((time.perf_counter() - started) / repeats / batch)
        for name, seconds in durations.items():
            results[name][str(batch)] = statistics.median(seconds[3:]) * 1e6
    table = Table("us a response", *(f"batch {batch}" for batch in BATCHES), title="Speed, one thread")
    for name, row in results.items():
        table.add_row(name, *(f"{row[str(batch)]:.1f}" for batch in BATCHES))
    console.print(table)
    ours, theirs, bare = (results[n] for n in ("one graph", "pytorch-ood one by one", "one graph without kNN"))
    checks = []
    for several, least in (("1", 5), ("64", 2)):
        times = theirs[several] / ours[several]
        checks.append(
            Check(f"times faster than pytorch-ood, batch {several}", round(times, 2), f">= {least}", times >= least)
        )
    checks.append(at_most("without kNN, us a response, batch 64", bare["64"], 12))
    checks.append(at_most("without kNN, us a response, batch 1", bare["1"], 60))
    return results, checks


def _one_by_one(peers: Sequence[Callable[..., Any]], tensors: tuple[Any, Any]) -> list[Any]:
    return [peer(*tensors) for peer in peers]


def _run(scorer: Scorer, rows: Observations) -> Callable[[], Any]:
    signals = {name: rows[name] for name in scorer.signals}
    return lambda: scorer.run(signals)


def detection() -> tuple[dict[str, Any], list[Check]]:
    """AUROC with 95% bootstrap intervals; detectors are fitted on 70% of the safe responses and judged by the rest."""
    results: dict[str, Any] = {}
    for name, safe, shifted in shifts.pairs():
        suggestions, _ = suggest(safe, shifted)
        results[name] = {
            suggestion.spec: {"auroc": suggestion.separation.auroc, "fpr95": suggestion.separation.fpr95}
            for suggestion in suggestions
            if suggestion.separation
        }
        table = Table("detector", "AUROC", "FPR at 95% TPR", title=f"{name} ({safe.rows} / {shifted.rows})")
        for suggestion in suggestions:
            if suggestion.separation:
                (a, low, high), (f, lower, upper) = suggestion.separation
                table.add_row(
                    suggestion.spec, f"{a:.3f} ({low:.3f} to {high:.3f})", f"{f:.3f} ({lower:.3f} to {upper:.3f})"
                )
        console.print(table)
    checks = [Check("pairs of safe and shifted responses", len(results), ">= 8", len(results) >= 8)]
    return results, checks


def economies(safe: Observations, later: Observations) -> dict[str, dict[str, float]]:
    """What could make the graph cheaper: smaller random networks, bound buffers, a second thread."""
    results: dict[str, dict[str, float]] = {}
    rows = list(islice(shifts.pairs(), 3))
    for hidden, outputs in ((256, 128), (128, 64), (64, 32), (32, 16)):
        costs = {}
        for name, safe_rows, shifted in rows:
            half = safe_rows.rows // 2
            scorer = compile([parse(f"rnd,hidden={hidden},outputs={outputs}")], safe_rows.take(slice(0, half)))
            auroc = separation(scorer(safe_rows.take(slice(half, None)))[:, 0], scorer(shifted)[:, 0]).auroc
            costs[f"AUROC, {name}"] = auroc.value
        costs |= {f"us a response, batch {batch}": scorer.cost(batch) * 1e6 for batch in BATCHES}
        results[f"rnd {hidden}-{hidden}-{outputs}"] = costs
    graph = compile([parse(spec) for spec in WITHOUT_KNN], fit_on=safe).graph
    single, threaded = Scorer(graph), Scorer(graph, threads=2)
    for batch in BATCHES:
        some = later.take(slice(0, batch))
        runs = {
            "run": _run(single, some),
            "run, bound buffers": _bound(single, some),
            "run, two threads": _run(threaded, some),
        }
        durations: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(60):
            for name, run in runs.items():
                started = time.perf_counter()
                for _ in range(20):
                    run()
                durations[name].append((time.perf_counter() - started) / 20 / batch)
        for name, seconds in durations.items():
            results.setdefault(name, {})[f"us a response, batch {batch}"] = statistics.median(seconds) * 1e6
    table = Table("what", "figures", title="Economies")
    for name, figures in results.items():
        table.add_row(name, ", ".join(f"{what}: {value:.3g}" for what, value in figures.items()))
    console.print(table)
    return results


def _bound(scorer: Scorer, rows: Observations) -> Callable[[], Any]:
    """A run on new rows each time, through ONNX Runtime's IOBinding."""
    session = scorer._session

    def run() -> Any:
        binding = session.io_binding()
        for name in scorer.signals:
            binding.bind_cpu_input(name, rows[name])
        binding.bind_output("tocsin.scores")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    return run


def _import_seconds() -> float:
    program = "import time; t = time.perf_counter(); import tocsin_detectors; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
