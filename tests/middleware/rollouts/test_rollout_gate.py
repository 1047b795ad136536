"""Claims about `tocsin gate`: what it reads, when it decides, and that nothing is decided on counts with a hole."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from tests.middleware.rollouts.gate_command import ABORT, CONTINUE, ERROR, PROMOTE, facts, gate

from tocsin.errors import CheckError, TocsinError
from tocsin.rollouts.counters import CounterSample, in_batches
from tocsin_calibration import CalibrationFault
from tocsin_calibration.online.rollout_gate import RolloutGate
from tocsin_calibration.online.two_streams import Streams


@pytest.mark.parametrize(
    "canary, stable, code",
    [("50/1000", "1000/20000", PROMOTE), ("60/300", "100/2000", ABORT), ("5/100", "100/2000", CONTINUE),
     ("0/0", "0/0", CONTINUE)],
)  # fmt: skip
def test_counts_by_hand_decide_by_exit_code(canary: str, stable: str, code: int) -> None:
    done = gate("--canary", canary, "--stable", stable)
    assert done.exit_code == code, done.output
    assert done.output.startswith({0: "promote", 1: "abort", 3: "continue"}[code])
    assert "one look" in done.output  # and what to do to look again


def test_a_promised_rate_stands_in_for_the_stable_version() -> None:
    result = facts("--canary", "40/300", "--rate", "0.05")
    assert result["decision"] == "abort" and result["stable_responses"] is None and result["reference"]["value"] == 0.05
    assert result["ratio"]["low"] > 1 and result["gate"]["delta"] == 0.01


def test_looks_are_kept_as_the_batches_between_them(tmp_path: Path) -> None:
    looks = tmp_path / "looks.json"
    for canary, stable in (("4/100", "20/400"), ("9/180", "33/700"), ("9/180", "33/700"), ("30/400", "80/1600")):
        result = facts("--canary", canary, "--stable", stable, "--looks", looks)
    batches = Streams.of([[4, 100], [5, 80], [21, 220]], [[20, 400], [13, 300], [47, 900]])
    expected = RolloutGate().verdict(batches)
    assert result["batches"] == 3  # the third look saw nothing new
    assert result["abort"]["log_evalue"] == pytest.approx(expected.abort.log_evalue)
    assert result["promote"]["log_evalue"] == pytest.approx(expected.promote.log_evalue)
    assert (result["canary_alarms"], result["stable_responses"]) == (30, 1600)


def test_a_gate_keeps_its_terms_from_look_to_look(tmp_path: Path) -> None:
    looks = tmp_path / "looks.json"
    counts = ["--canary", "4/100", "--stable", "20/400", "--looks", looks]
    assert gate(*counts).exit_code == CONTINUE
    for changed in (
        ["--delta", 0.05],
        ["--excess", 2],
        ["--baseline", 0.1],
        ["--severity", "critical"],
        ["--beta", 0.2],
    ):
        done = gate(*counts, *changed)
        assert isinstance(done.exception, CheckError) and "began with" in str(done.exception), changed
    assert "rate" in str(gate("--canary", "4/100", "--rate", 0.05, "--looks", looks).exception)
    fewer = gate("--canary", "3/100", "--stable", "20/400", "--looks", looks)
    assert isinstance(fewer.exception, CheckError) and "no later look has fewer" in str(fewer.exception)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"terms": {}, "batches": [1], "last": {}}', "\x00"])
def test_a_file_that_no_gate_wrote_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "looks.json").write_text(content)
    done = gate("--canary", "4/100", "--stable", "20/400", "--looks", tmp_path / "looks.json")
    assert isinstance(done.exception, CheckError) and "tocsin gate" in str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--canary", "1/10"], ["--canary", "1/10", "--stable", "1/10", "--rate", "0.1"], ["--stable", "1/10"],
     ["--canary", "11/10", "--stable", "1/10"], ["--canary", "1/10", "--stable", "127.0.0.1:9"],
     ["--canary", "1/10", "--canary", "2/10", "--stable", "1/10"],
     ["--canary", "1/10", "--stable", "1/10", "--delta", "0"],
     ["--canary", "1/10", "--rate", "1.5"], ["--canary", "1/10", "--rate", "0.7"], ["--shadow", "--stable", "1/10"],
     ["--prometheus", "http://127.0.0.1:9", "--canary", 'a="b"', "--stable", 'a="c"'],
     ["--prometheus", "http://127.0.0.1:9", "--model", "m", "--canary", 'a="b"', "--stable", 'a="c"'],
     ["--prometheus", "http://127.0.0.1:9", "--model", "m", "--canary", 'a="b"} or x{', "--stable", 'a="c"'],
     ["--canary", "127.0.0.1:9", "--stable", "127.0.0.1:9"],
     ["--canary", "1/10", "--stable", "1/10", "--every", "soon"],
     ["--canary", "1/10", "--stable", "1/10", "--since", "soon"], ["--template", "argo"],
     ["--template", "argo", "--model", "m", "--shadow"], ["--template", "argo", "--model", "m", "--every", "1.5s"]],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_an_error_and_no_decision(arguments: list[str]) -> None:
    done = gate(*arguments)
    assert done.exception is not None and not isinstance(done.exception, SystemExit)
    assert isinstance(done.exception, TocsinError | CalibrationFault) and str(done.exception)


def test_a_fault_of_ours_does_not_end_with_the_code_that_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*arguments: object) -> None:
        raise ValueError("of ours")

    monkeypatch.setattr("tocsin.cli.gate.read", fault)
    assert gate("--canary", "5/100", "--stable", "100/2000").exit_code == ERROR


@pytest.mark.long
def test_a_gate_waits_until_time_is_over(sidecars: list[Sidecar], tmp_path: Path) -> None:
    canary, stable, _ = sidecars
    options = ["--canary", canary.address, "--stable", stable.address, "--looks", tmp_path / "looks.json"]
    assert gate(*options, "--every", "1s", "--wait", "1s").exit_code == CONTINUE
    canary.count(60, 200)
    stable.count(40, 800)
    done = gate(*options, "--every", "1s", "--wait", "10m")  # decided at its first look
    assert done.exit_code == ABORT


class Sidecar:
    """What a gate scrapes: the real exposition of counters that a test moves."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.total = Counter("tocsin_promised", "", ["model"], registry=registry).labels("digits")
        self.alarms = Counter("tocsin_promised_alarms", "", ["model", "severity"], registry=registry).labels(
            "digits", "warning"
        )
        self.unscored = Counter("tocsin_unscored", "", ["model", "reason"], registry=registry).labels("digits", "late")
        self.began = Gauge("process_start_time_seconds", "", registry=registry)
        self.began.set(1e9)
        self.shadow = Counter("tocsin_shadow_responses", "", ["model", "severity", "live"], registry=registry)
        alpha = Gauge("tocsin_alpha", "", ["model", "severity"], registry=registry)
        alpha.labels("digits", "warning").set(0.05)
        alpha.labels("digits", "critical").set(0.01)

        class Metrics(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = generate_latest(registry)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self.server.server_port}"

    def count(self, alarms: int, responses: int) -> None:
        self.alarms.inc(alarms)
        self.total.inc(responses)


@pytest.fixture
def sidecars() -> Iterator[list[Sidecar]]:
    started = [Sidecar() for _ in range(3)]
    yield started
    for sidecar in started:
        sidecar.server.shutdown()
        sidecar.server.server_close()


def test_sidecars_are_scraped_and_compared_from_the_first_look_on(sidecars: list[Sidecar], tmp_path: Path) -> None:
    canary, stable, other = sidecars
    stable.count(900, 1000)  # of a time before the rollout
    options = ["--canary", canary.address, "--stable", stable.address, "--stable", other.address]
    options += ["--looks", tmp_path / "looks.json"]
    first = facts(*options)
    assert first["decision"] == "continue" and first["batches"] == 0
    canary.count(5, 100)
    stable.count(10, 200)
    other.count(9, 190)
    second = facts(*options)
    assert (second["canary_alarms"], second["canary_responses"]) == (5, 100)
    assert (second["stable_alarms"], second["stable_responses"]) == (19, 390)
    other.alarms.reset()
    other.total.reset()  # a process that was started again
    other.count(3, 50)
    stable.count(40, 800)
    canary.count(60, 200)
    third = facts(*options)
    assert (third["stable_alarms"], third["stable_responses"]) == (62, 1240)
    assert third["decision"] == "abort" and any("restarted" in remark for remark in third["remarks"])


def test_a_canary_that_is_not_scored_is_not_promoted(sidecars: list[Sidecar]) -> None:
    canary, stable, _ = sidecars
    canary.count(50, 1000)
    stable.count(1000, 20000)
    canary.unscored.inc(40)
    options = ["--canary", canary.address, "--stable", stable.address, "--model", "digits"]
    assert facts(*options)["decision"] == "promote"
    canary.unscored.inc(100)
    result = facts(*options)
    assert result["decision"] == "continue" and "12.3%" in result["withheld"][0]
    assert facts(*options, "--most-unscored", 0.2)["decision"] == "promote"
    assert "guards no model" in str(gate(*options[:-1], "other").exception)
    assert "of severity 'critical'" in str(gate(*options, "--severity", "critical").exception)


def test_a_candidate_is_judged_by_the_responses_that_it_shares_with_the_live_bundle(sidecars: list[Sidecar]) -> None:
    sidecar = sidecars[0]
    options = ["--shadow", "--canary", sidecar.address, "--model", "digits"]
    assert "no candidate" in str(gate(*options).exception)
    for candidate, live, count in (
        ("none", "none", 4700), ("warning", "warning", 150), ("critical", "warning", 50), ("critical", "none", 21),
        ("none", "critical", 22),
    ):  # fmt: skip
        sidecar.shadow.labels("digits", candidate, live).inc(count)
    result = facts(*options)
    assert result["decision"] == "promote" and (result["canary_alarms"], result["stable_alarms"]) == (221, 222)
    assert facts(*options, "--severity", "critical")["canary_alarms"] == 71
    sidecar.shadow.labels("digits", "failed", "none").inc(500)  # what it cannot score says nothing of it
    result = facts(*options)
    assert result["decision"] == "continue" and "9.2%" in result["withheld"][0] and result["canary_responses"] == 4943
    sidecar.shadow.labels("digits", "warning", "none").inc(60)
    assert facts(*options)["decision"] == "abort"


def test_batches_end_at_multiples_and_wait_for_their_end() -> None:
    rows = [CounterSample(at, (at, 2 * at)) for at in (95.0, 110.0, 125.0, 185.0, 200.0, 245.0)]
    batches = in_batches({"t": rows}, 60.0, 250.0, 60.0, 2)
    assert batches.counts.tolist() == [[0, 0], [15, 30], [75, 150]]  # 110 at 120, 125 at 180, 200 at 240
    lost = in_batches(
        {"t": [*rows, CounterSample(1000.0, (1000.0, 2000.0)), CounterSample(1030.0, (1001.0, 2002.0))]},
        60.0,
        1200.0,
        60.0,
        2,
    )
    assert lost.gaps == 1 and lost.counts[4:].sum() == 3
