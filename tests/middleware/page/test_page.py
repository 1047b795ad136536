"""Claims about the page on the metrics port, seen in a real browser, and about the same in a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, Running, far_away, inference, running, safe_traffic, settings
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tocsin.judgement.guard import Guard
from tocsin.page.history import History
from tocsin.page.page import MAX_WATCHERS
from tocsin.page.snapshot import MAX_MODELS, snapshot
from tocsin.sinks.prometheus import PrometheusSink

CHROMIUM = Path("/usr/bin/chromium")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CARD = "section[aria-label='model digits']"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM.exists(), "chromium is missing: apt-get install chromium"
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@contextmanager
def watched(bundle: Path, **more: Any) -> Iterator[tuple[Running, str]]:
    """A relay with answers to send through it, and the address of its page."""
    safe = safe_traffic(300, seed=8)
    with model_server() as (model, address), running(settings(address, bundle, **more)) as relay:
        model.answers = {b"%d" % row: inference(safe, slice(row, row + 1)) for row in range(300)}
        model.answers[b"far"] = inference(far_away(1), slice(0, 1))
        assert relay.sidecar.http is not None
        yield relay, f"http://{relay.sidecar.http.address}"


def send(relay: Running, *requests: bytes) -> None:
    with grpc.insecure_channel(relay.target) as channel:
        for request in requests:
            channel.unary_unary(INFER)(request, metadata=(("traceparent", TRACE),), timeout=60)


def looked_at(browser: Browser, url: str, **how: Any) -> tuple[Page, list[str], list[str]]:
    """The page, what it has asked for, and what it has complained of."""
    page = browser.new_page(**how)
    requested: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    expect(page.locator(CARD)).to_be_visible()
    return page, requested, complaints


def test_it_says_the_promise_counts_live_and_loads_nothing_from_elsewhere(bundle: Path, browser: Browser) -> None:
    with watched(bundle) as (relay, url):
        send(relay, *(b"%d" % row for row in range(200)))
        page, requested, complaints = looked_at(browser, url)
        card = page.locator(CARD)
        expect(card).to_contain_text("warning: at most 5% of safe responses like the 400 calibration responses alarm")
        expect(card).to_contain_text("of 200 responses since start")
        expect(card).to_contain_text("promise kept")
        send(relay, b"far")
        expect(card).to_contain_text("of 201 responses since start")
        expect(page.locator("#alarms")).to_contain_text("critical")
        assert {re.match(r"https?://[^/]+", address)[0] for address in requested} == {url}  # type: ignore[index]
        assert complaints == []
        page.close()


def test_a_broken_promise_is_said_in_red_and_with_its_evidence(bundle: Path, browser: Browser) -> None:
    with watched(bundle) as (relay, url):
        send(relay, *[b"far"] * 40)
        page, _, _ = looked_at(browser, url)
        expect(page.locator(CARD)).to_contain_text("promise broken")
        expect(page.locator(CARD)).to_contain_text("Evidence against the promise: e^")
        expect(page.locator(CARD)).to_contain_text("changed about 20")
        expect(page.locator(CARD)).to_contain_text("detector entropy: scores are higher")
        expect(page.locator("#alarms")).to_contain_text("as high in 0.50% of safe responses")
        page.close()


def test_the_keyboard_pauses_it_and_opens_an_alarm(bundle: Path, browser: Browser) -> None:
    with watched(bundle) as (relay, url):
        send(relay, b"far", b"1")
        page, _, _ = looked_at(browser, url)
        summary = page.locator("#alarms summary").first
        summary.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#alarms details[open]")).to_contain_text(TRACE.split("-")[1])
        page.wait_for_timeout(1_500)  # a look or two later it is still open, and has the focus
        expect(page.locator("#alarms details[open]")).to_have_count(1)
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Space")
        send(relay, b"2")
        expect(page.locator("#live")).to_have_text("paused")
        expect(page.locator(CARD)).to_contain_text("of 2 responses since start")
        page.keyboard.press("Space")
        expect(page.locator(CARD)).to_contain_text("of 3 responses since start")
        page.close()


def test_it_fits_a_phone_and_knows_the_dark(bundle: Path, browser: Browser) -> None:
    with watched(bundle) as (relay, url):
        send(relay, b"far", *(b"%d" % row for row in range(50)))
        grounds = []
        for scheme in ("light", "dark"):
            page, _, _ = looked_at(browser, url, viewport={"width": 360, "height": 740}, color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.close()
        brightness = [sum(map(int, re.findall(r"\d+", ground)[:3])) for ground in grounds]
        assert brightness[0] > 600 > 200 > brightness[1]


def test_it_answers_what_people_come_with_first_also_on_a_phone(bundle: Path, browser: Browser) -> None:
    with watched(bundle) as (relay, url):
        page, _, complaints = looked_at(browser, url, viewport={"width": 360, "height": 740})
        answers = page.locator("#answers")
        expect(answers).to_contain_text("No traffic yet.")
        send(relay, *(b"%d" % row for row in range(100)))
        expect(answers).to_contain_text("Is it keeping its promise?Yes, as far as 100 responses can tell: ")
        expect(answers).to_contain_text("What alarmed, and why?")
        send(relay, *[b"far"] * 60)
        expect(answers).to_contain_text("No. digits raises warning alarms in ")
        expect(answers).to_contain_text("it promised at most 5%")
        expect(answers).to_contain_text("UTC, critical, digits: ")
        expect(answers).to_contain_text("What does it cost?99 times of 100, scoring takes at most ")
        box = answers.bounding_box()
        assert box is not None and box["y"] + box["height"] < 740  # without scrolling
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.answer')).fontSize)")
        assert size >= 16
        expect(page.locator(".scores[open]")).to_have_count(0)  # pictures wait until they are asked for
        page.locator(".scores summary").click()
        send(relay, b"1")
        expect(page.locator(CARD)).to_contain_text("of 161 responses since start")
        expect(page.locator(".scores[open]")).to_have_count(1)
        assert complaints == []
        page.close()


def test_alarms_are_searched_by_session_and_trace_and_older_ones_are_shown(bundle: Path, browser: Browser) -> None:
    traces = [f"{number:032x}" for number in range(1, 46)]
    with watched(bundle) as (relay, url):
        with grpc.insecure_channel(relay.target) as channel:
            for number, trace in enumerate(traces):
                metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"), ("x-session", f"robot {number}"))
                channel.unary_unary(INFER)(b"far", metadata=metadata, timeout=60)
        events = relay.sidecar.events.latest
        page, _, complaints = looked_at(browser, url)
        lines, search = page.locator("#alarms details"), page.locator("#search")
        expect(lines).to_have_count(10)
        singles = [event["data"] for event in events if "alarms" not in event["data"]]
        search.fill(singles[3]["trace_id"])
        expect(lines).to_have_count(1)
        expect(lines.first).to_contain_text(singles[3]["session"])
        search.fill("robot 7")
        expect(lines).to_have_count(1)
        search.fill("no such session")
        expect(page.locator("#alarms")).to_have_text("None that holds this text.")
        search.fill("CRITICAL")
        expect(page.locator("#found")).to_contain_text("shown")
        search.fill("")
        expect(lines).to_have_count(10)
        assert complaints == []
        page.close()


def test_more_than_ten_alarms_are_remembered_and_shown(bundle: Path, browser: Browser, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}], "burst": 1_000}
    with watched(bundle, events=events) as (relay, url):
        with grpc.insecure_channel(relay.target) as channel:
            for number in range(45):
                channel.unary_unary(INFER)(b"far", metadata=(("x-session", f"s{number}"),), timeout=60)
        page, _, _ = looked_at(browser, url)
        lines, older = page.locator("#alarms details"), page.locator("#older")
        expect(lines).to_have_count(10)
        older.click()
        expect(lines).to_have_count(30)
        older.click()
        expect(lines).to_have_count(45)
        expect(older).to_be_hidden()
        expect(page.locator("#found")).to_have_text("45 shown, no older ones")
        page.locator("#search").fill("s4")
        expect(lines).to_have_count(6)  # s4, s40, ..., s44
        page.locator("#search").press("Space")  # a space is typed, and pauses nothing
        expect(page.locator("#live")).to_contain_text("live")
        page.close()
        assert len(alarms(url)) == 45 and len(alarms(url, search="s4", last="2")) == 2
        assert len(alarms(url, last="0")) == len(alarms(url, last="-1")) == len(alarms(url, last="x")) == 45
        assert alarms(url, search="%") == []
        done = subprocess.run(
            [sys.executable, "-m", "tocsin", "top", "--once", "--search", "s44", "--of", url.removeprefix("http://")],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.count("session s44") == 1 and "session s43" not in done.stdout


def alarms(url: str, **query: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/alarms?{urllib.parse.urlencode(query)}") as answer:
        return list(json.load(answer))


def test_it_is_off_with_one_setting_and_only_answers_get(bundle: Path) -> None:
    for on in (True, False):
        with watched(bundle, page=on) as (_, url):
            assert status(url + "/") == (200 if on else 404)
            assert status(url + "/", method="POST") == 405
            assert status(url + "/metrics") == 200


def test_so_many_may_watch_and_no_more(bundle: Path) -> None:
    with watched(bundle) as (_, url), ExitStack() as open_:
        for _ in range(MAX_WATCHERS):
            open_.enter_context(urllib.request.urlopen(url + "/live")).readline()
        assert status(url + "/live") == 503
        assert status(url + "/snapshot") == 200


def test_no_payload_is_shown(bundle: Path, tmp_path: Path) -> None:
    events = {"to": [{"file": tmp_path / "alarms.jsonl"}], "payload": "both"}
    with watched(bundle, events=events) as (relay, url):
        send(relay, b"far")
        alarm = json.loads((tmp_path / "alarms.jsonl").read_text().splitlines()[0])["data"]
        assert alarm["request"] and alarm["response"]
        with urllib.request.urlopen(url + "/snapshot") as answer:
            shown = answer.read().decode()
        assert alarm["trace_id"] in shown
        assert alarm["request"] not in shown and alarm["response"] not in shown


def test_the_terminal_shows_the_same(bundle: Path) -> None:
    with watched(bundle) as (relay, url):
        send(relay, b"far", *(b"%d" % row for row in range(99)))
        done = subprocess.run(
            [sys.executable, "-m", "tocsin", "top", "--once", "--of", url.removeprefix("http://")],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert "digits promise kept" in done.stdout and "of 100)" in done.stdout
    assert "promised 5%" in done.stdout and "critical" in done.stdout
    words = " ".join(done.stdout.split())
    assert "Is it keeping its promise? Yes, as far as 100 responses can tell: " in words
    assert "What does it cost? 99 times" in words


def test_top_tells_when_nobody_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tocsin", "top", "--of", "127.0.0.1:9"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "no tocsin to be seen there" in done.stderr


def test_history_tells_what_came_between_two_looks() -> None:
    counts = {"m": (0, {"warning": 0})}
    history = History(lambda: counts, every=3_600)
    try:
        counts = {"m": (10, {"warning": 2})}
        assert [point[1:] for point in history.points()["m"]] == [(10, {"warning": 2})]
        counts = {"m": (4, {"warning": 1})}  # less than before: counted anew, as after a reload
        history._last = {"m": (10, {"warning": 2})}
        assert [point[1:] for point in history.points()["m"]] == [(4, {"warning": 1})]
    finally:
        history.close()


def test_of_many_models_those_with_most_evidence_are_shown(bundle: Path) -> None:
    model = {"bundle": bundle, "signals": SIGNALS}
    guard = Guard.open(settings(1, None, models={f"m{number}": model for number in range(MAX_MODELS + 5)}))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    for _ in range(30):
        call = guard.call(INFER, {})
        assert call is not None
        judged = call.on_response_message(inference(far_away(1), slice(0, 1), model="m24"))
        assert judged is not None
        guard.judge([judged])
    history = History(sink.counts, every=3_600)
    try:
        shown = snapshot(sink, [], history, "observe")
    finally:
        history.close()
    first = shown["models"][0]
    assert first["name"] == "m24" and first["severities"][0]["broken"]
    assert len(shown["models"]) == MAX_MODELS and shown["more"] == 5


def status(url: str, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
