"""Claims about `tocsin watch --histogram`: buckets are evidence that never exceeds what the scores themselves are."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    far_away,
    free_port,
    inference,
    quick_bundle,
    running,
    safe_traffic,
    settings,
)
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from scipy.stats import binom
from tests.command import tocsin
from tests.prometheus_server import prometheus_with

from tocsin.errors import ConfigError, RecordingError
from tocsin.offline.score_promise import thresholds_of
from tocsin.replay.histogram_watch import HistogramWatch
from tocsin.replay.scraped_histogram import Bucket, ScrapedHistogram, selector_of
from tocsin.sinks.families import P_BUCKETS
from tocsin_calibration import Bundle, Promise, SessionRule, calibrate, calibrate_sessions, promise_test
from tocsin_detectors import Entropy, External, Observations, compile

REFUSED = 2
ALPHAS = {"warning": 0.05, "critical": 0.01}
BOUNDS = (-2.0, -1.0, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)


def bundle_of(scores: NDArray[np.float64], *, lower_is_worse: bool = False) -> Bundle:
    values = Observations({"risk": scores[:, None].astype(np.float32)})
    scorer = compile([External("risk", lower_is_worse=lower_is_worse)], fit_on=values)
    return Bundle(scorer, calibrate(scorer(values), ALPHAS, detectors=scorer.detectors, on_average=True), "")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundle_of(np.random.default_rng(3).normal(size=2_000))


@pytest.fixture(scope="module")
def file(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("promise") / "risk.tocsin"
    bundle.write(path)
    return path


def buckets_of(values: Any, bounds: Sequence[float]) -> list[Bucket]:
    """The values as a histogram with these bounds counts them."""
    edges = [-np.inf, *bounds, np.inf]
    sizes = np.bincount(np.searchsorted(edges, values) - 1, minlength=len(edges) - 1)
    return [Bucket(edges[at], edges[at + 1], int(size)) for at, size in enumerate(sizes)]


class Guardrail:
    """Somebody's service with a histogram of its scores by model."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.histogram = Histogram("guard_risk", "Scores.", ["model"], buckets=BOUNDS, registry=self.registry)

    def observe(self, scores: NDArray[np.float64], model: str = "chat") -> None:
        for score in scores:
            self.histogram.labels(model).observe(score)

    @property
    def page(self) -> str:
        return generate_latest(self.registry).decode()


def facts_of(page: Path, bundle: Path, *more: str) -> dict[str, Any]:
    done = tocsin("watch", page, bundle, "--histogram", 'guard_risk{model="chat"}', "--json", *more)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_a_score_is_an_alarm_where_all_of_its_bucket_is(bundle: Bundle, file: Path, tmp_path: Path) -> None:
    guard, page = Guardrail(), tmp_path / "metrics.txt"
    scores = np.random.default_rng(4).normal(size=5_000)
    guard.observe(scores)
    guard.observe(np.full(50, 9.0), model="other")
    page.write_text(guard.page)
    facts = facts_of(page, file)
    assert facts["scores"] == 5_000
    limits = thresholds_of(bundle.require_promise(), lower_is_worse=False)
    for name, alpha in ALPHAS.items():
        bound = min(bound for bound in BOUNDS if bound > limits[name])
        standing = facts["severities"][name]
        assert standing["alarms"] == (scores > bound).sum() < (scores > limits[name]).sum()
        below = max(at for at in BOUNDS if at <= limits[name])
        assert standing["undecided"] == ((scores > below) & (scores <= bound)).sum()
        assert (standing["alpha"], standing["broken"]) == (alpha, False)


def test_a_promise_that_is_broken_shows(file: Path, tmp_path: Path) -> None:
    guard, page = Guardrail(), tmp_path / "metrics.txt"
    guard.observe(np.random.default_rng(5).normal(loc=1.0, size=2_000))
    page.write_text(guard.page)
    assert facts_of(page, file)["severities"]["critical"]["broken"]
    text = tocsin("watch", page, file, "--histogram", "guard_risk").stdout
    assert "2,000 scores" in text and "the promise is broken" in text and "count as calm" in text


def test_of_scores_whose_low_values_are_worse_the_low_buckets_alarm(tmp_path: Path) -> None:
    watch = HistogramWatch(bundle_of(np.random.default_rng(6).normal(size=2_000), lower_is_worse=True), "signal")
    assert watch.take([Bucket(-np.inf, -3.0, 7), Bucket(-3.0, 0.0, 5), Bucket(3.0, np.inf, 11)]) == 23
    counted = watch.standings()
    assert {name: of.standing.alarms for name, of in counted.items()} == {"warning": 7, "critical": 7}
    assert {name: of.undecided for name, of in counted.items()} == {"warning": 5, "critical": 5}


def test_the_evidence_of_buckets_never_exceeds_that_of_the_scores(bundle: Bundle) -> None:
    """By score and by look: the number that is counted is at most that of true alarms, and evidence grows with it."""
    rng = np.random.default_rng(7)
    promise: Promise = bundle.require_promise()
    for bounds in ((0.0,), (2.0, 2.3, 2.31), tuple(np.linspace(-3, 4, 60)), BOUNDS):
        watch, true = HistogramWatch(bundle, "signal"), dict.fromkeys(ALPHAS, 0)
        for _ in range(20):
            scores = rng.normal(scale=1.3, size=40)
            watch.take(buckets_of(scores, bounds))
            severities = promise.judge(scores[:, None].astype(np.float32)).severities
            true["warning"] += sum(severity is not None for severity in severities)
            true["critical"] += severities.count("critical")
            for name, of in watch.standings().items():
                assert of.standing.alarms <= true[name] <= of.standing.alarms + of.undecided
                test = promise_test(promise.laws[name], learns=False)
                exact = test.log_evalue([true[name], watch.trials - true[name]])
                assert test.log_evalue([of.standing.alarms, watch.trials - of.standing.alarms]) <= exact + 1e-9


@pytest.mark.long
def test_a_kept_promise_is_called_broken_no_more_often_than_delta() -> None:
    """Fresh calibrations and fresh scores, looked at often: at most delta of the streams ever reach 1/delta."""
    rng, delta, streams, broken = np.random.default_rng(8), 0.1, 80, 0
    scorer = bundle_of(rng.normal(size=500)).scorer
    for _ in range(streams):
        promise = calibrate(rng.normal(size=(500, 1)), ALPHAS, detectors=scorer.detectors, on_average=True)
        watch = HistogramWatch(Bundle(scorer, promise, ""), "signal", delta=delta, restart=500)
        for _ in range(10):
            watch.take(buckets_of(rng.normal(size=200), (1.0, 1.645, 2.0, 2.326, 3.0)))
            if any(of.standing.broken for of in watch.standings().values()):
                broken += 1
                break
    assert binom.sf(broken - 1, streams, delta) > 1e-4


def test_pvalues_alarm_up_to_the_level_of_the_promise(bundle: Bundle) -> None:
    promise = bundle.require_promise()
    watch, rng = HistogramWatch(bundle, "pvalue"), np.random.default_rng(9)
    judged = promise.judge(rng.normal(scale=1.5, size=(3_000, 1)).astype(np.float32))
    watch.take(buckets_of(judged.pvalues, P_BUCKETS))
    counted = watch.standings()
    assert counted["critical"].standing.alarms == judged.severities.count("critical") > 0
    assert counted["warning"].standing.alarms == sum(severity is not None for severity in judged.severities)
    assert counted["critical"].undecided == counted["warning"].undecided == 0  # 0.01 and 0.05 are bounds


def test_looks_count_what_came_between_and_a_restart_counts_from_zero() -> None:
    first, scraped = Guardrail(), ScrapedHistogram(selector_of('guard_risk{model="chat"}'))
    first.observe(np.array([0.5, 3.5]))
    assert scraped.look(first.page, "page") == [Bucket(0.0, 1.0, 1), Bucket(3.0, 4.0, 1)]
    assert scraped.look(first.page, "page") == []
    first.observe(np.array([0.5]))
    assert scraped.look(first.page, "page") == [Bucket(0.0, 1.0, 1)]
    second = Guardrail()
    second.observe(np.array([9.0]))
    assert scraped.look(second.page, "page") == [Bucket(4.0, np.inf, 1)]
    with pytest.raises(RecordingError, match="no classic histogram guard_risk"):
        ScrapedHistogram(selector_of('guard_risk{model="absent"}')).look(first.page, "page")
    with pytest.raises(RecordingError, match="text format"):
        scraped.look("guard_risk_bucket{le=\n", "page")


@contextmanager
def serving(guard: Guardrail) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = guard.page.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def test_a_page_may_be_served(file: Path) -> None:
    guard = Guardrail()
    guard.observe(np.zeros(10))
    with serving(guard) as url:
        done = tocsin("watch", url, file, "--histogram", "guard_risk")
        assert done.returncode == 0 and "10 scores" in done.stdout
        missing = tocsin("watch", url, file, "--histogram", "other", code=REFUSED)
        assert "has no classic histogram other" in missing.stderr
    refused = tocsin("watch", f"http://127.0.0.1:{free_port()}/", file, "--histogram", "guard_risk", code=REFUSED)
    assert "cannot be read" in refused.stderr


@pytest.mark.parametrize("text", ["", "1abc", "guard{model=chat}", 'guard{model="a" le="b"}', "guard{"])
def test_a_selector_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME"):
        selector_of(text)


def test_what_a_histogram_tells_nothing_of_is_refused() -> None:
    scores = np.random.default_rng(10).normal(size=(400, 1)).astype(np.float32)
    of_sessions = calibrate_sessions(np.split(scores, 100), {"warning": 0.1}, session=SessionRule())
    scorer = compile([External("risk")], fit_on=Observations({"risk": scores}))
    with pytest.raises(ValueError, match="sessions or groups"):
        HistogramWatch(Bundle(scorer, of_sessions, ""), "signal")
    probs = Observations({"probs": np.random.default_rng(11).dirichlet(np.ones(4), 400).astype(np.float32)})
    entropy = compile([Entropy()], fit_on=probs)
    of_signals = Bundle(entropy, calibrate(entropy(probs), ALPHAS, detectors=entropy.detectors), "")
    with pytest.raises(ValueError, match="use tocsin_score"):
        HistogramWatch(of_signals, "signal")
    assert HistogramWatch(of_signals, "score").take([]) == 0


def test_the_page_of_a_relay_has_histograms_to_watch(tmp_path: Path) -> None:
    digits = tmp_path / "digits.tocsin"
    quick_bundle(digits)
    safe, far = safe_traffic(60), far_away(1)
    with model_server() as (model, address), running(settings(address, digits)) as relay:
        model.answers = {b"%d" % row: inference(safe, slice(row, row + 1)) for row in range(60)}
        model.answers[b"far"] = inference(far, slice(0, 1))
        with grpc.insecure_channel(relay.target) as channel:
            for name in [*(b"%d" % row for row in range(60)), *[b"far"] * 30]:
                channel.unary_unary(INFER)(name, timeout=60)
        alarms = {name: relay.metric("tocsin_promised_alarms_total", model="digits", severity=name) for name in ALPHAS}
        assert relay.sidecar.http is not None
        url = f"http://{relay.sidecar.http.address}/metrics"
        done = tocsin("watch", url, digits, "--histogram", 'tocsin_pvalue{model="digits"}', "--json")
        refused = tocsin("watch", url, digits, "--histogram", "tocsin_score", code=REFUSED)
    assert "use tocsin_pvalue" in refused.stderr
    facts = json.loads(done.stdout)
    assert facts["scores"] == 90
    for name, of_name in facts["severities"].items():
        assert of_name["alarms"] <= alarms[name] <= of_name["alarms"] + of_name["undecided"]
    assert facts["severities"]["warning"]["broken"]
    assert facts["severities"]["critical"]["undecided"] >= 30  # of 400 scores, 1 / 401 lies between 0.002 and 0.005


def test_a_prometheus_passes_the_histograms_of_others_on(file: Path, tmp_path: Path) -> None:
    at = time.time() - 30
    cumulative = {"0.0": 500.0, "2.0": 980.0, "3.0": 990.0, "+Inf": 1_000.0}
    series = {
        f'guard_risk_bucket{{model="{model}",le="{bound}"}}': [(at, count)]
        for model in ("chat", "other")
        for bound, count in cumulative.items()
    }
    with prometheus_with(tmp_path, series) as address:
        url = f"{address}/federate?match[]=guard_risk_bucket"
        done = tocsin("watch", url, file, "--histogram", 'guard_risk{model="chat"}', "--json")
    facts = json.loads(done.stdout)
    assert facts["scores"] == 1_000
    assert facts["severities"]["critical"]["alarms"] == 10
