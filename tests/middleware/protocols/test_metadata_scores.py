"""Claims: a score in the metadata of a call is judged like any signal, in every position; a hostile value never is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness import ranker as acme
from benchmarks.harness.parts import running
from benchmarks.harness.serving import serving
from hypothesis import given
from hypothesis import strategies as st
from tests.command import tocsin as tocsin_command
from tests.positions import POSITIONS, ask, ask_aio

import tocsin
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.protocols.metadata import number_in
from tocsin.protocols.paths import signal_path
from tocsin.recording.recorder import Recorder
from tocsin.unscored import Unscored
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Entropy, External, Observations, compile

N = 200
PLACES = {"asked": "metadata.x-asked", "begun": "initial_metadata.x-begun", "ended": "trailing_metadata.x-ended"}
MODES = ["observe", "annotate", "enforce"]
EVERYWHERE = [(f"relay {mode}", "relay", mode) for mode in MODES] + [(p, p, "annotate") for p in POSITIONS]


def scores_bundle(path: Path, names: tuple[str, ...] = tuple(PLACES), *, lower: str = "") -> Path:
    """Calibrated on the scores 1 to 200 of each signal."""
    rows = {name: np.random.default_rng(at).permutation(N)[:, None] + 1.0 for at, name in enumerate(names)}
    scorer = compile([External(n, lower_is_worse=n == lower) for n in names], fit_on=Observations(rows))
    promise = calibrate(
        scorer(Observations(rows)), {"warning": 0.1, "critical": 0.05}, rule="any", detectors=scorer.detectors
    )
    Bundle(scorer, promise, "digits").write(path)
    return path


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scores_bundle(tmp_path_factory.mktemp("scores") / "scores.tocsin")


def entries(text: str, kind: str) -> tuple[tuple[str, str], ...]:
    """The metadata of one kind that a request asks for."""
    return tuple((key, value) for key, value in json.loads(text).get(kind, ()))


class Service(acme.Ranker):
    """Sends the metadata that requests ask for."""

    def rank(self, request: Any, context: Any) -> Any:
        if initial := entries(request.query, "initial"):
            context.send_initial_metadata(initial)
        context.set_trailing_metadata(entries(request.query, "trailing"))
        return acme.Response(model="digits", id="rank")

    def watch(self, request: Any, context: Any) -> Iterator[Any]:
        if initial := entries(request.query, "initial"):
            context.send_initial_metadata(initial)
        for number in range(3):
            yield acme.Response(model="digits", id=str(number))
        context.set_trailing_metadata(entries(request.query, "trailing"))


class AioService(acme.AioRanker):
    async def rank(self, request: Any, context: Any) -> Any:
        if initial := entries(request.query, "initial"):
            await context.send_initial_metadata(initial)
        context.set_trailing_metadata(entries(request.query, "trailing"))
        return acme.Response(model="digits", id="rank")

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        if initial := entries(request.query, "initial"):
            await context.send_initial_metadata(initial)
        for number in range(3):
            yield acme.Response(model="digits", id=str(number))
        context.set_trailing_metadata(entries(request.query, "trailing"))


@contextmanager
def served(*interceptors: Any) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=interceptors)
    server.add_generic_rpc_handlers((Service(),))
    with serving(server) as address:
        yield address


def configured(upstream: str, bundle: Path, folder: Path, mode: str, **more: Any) -> Config:
    fail = more.pop("fail", "open")
    model = {"bundle": bundle, "protocol": "ranker", "signals": PLACES, "judge": "end", **more}
    return Config(
        listen="127.0.0.1:0", upstream=upstream, metrics=None, admin=None, scoring_budget="60s", mode=mode,
        protocols=acme.protocol(folder), models={"digits": model}, fail=fail,
    )  # fmt: skip


class Noted:
    """A sink that keeps every verdict."""

    def __init__(self) -> None:
        self.verdicts: list[tocsin.Verdict] = []

    def scored(self, scored: Any) -> None:
        self.verdicts += [call.verdict for call in scored.calls]

    def unscored(self, call: Any) -> None:
        self.verdicts.append(call.verdict)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


Say = Callable[..., dict[str, Any]]


@contextmanager
def positioned(position: str, mode: str, bundle: Path, folder: Path, **more: Any) -> Iterator[tuple[Say, Noted]]:
    noted = Noted()
    guard = tocsin.Guard.open(configured("127.0.0.1:1", bundle, folder, mode, **more), [noted])
    if position == "aio server":

        async def exchange(*scenario: Any, **options: Any) -> Any:
            async with acme.aio_ranker(AioService(), tocsin.server_interceptor(guard)) as address:
                async with grpc.aio.insecure_channel(address) as channel:
                    return await ask_aio(channel, *scenario, **options)

        yield lambda *scenario, **options: asyncio.run(exchange(*scenario, **options)), noted
        return
    with served(*([tocsin.server_interceptor(guard)] if position == "server" else [])) as address:
        if position == "relay":
            config = configured(address, bundle, folder, mode, **more)
            guard = tocsin.Guard.open(config, [noted])
            with running(config, guard) as relay, grpc.insecure_channel(relay.target) as channel:
                yield lambda *scenario, **options: ask(channel, *scenario, **options), noted
        elif position == "aio client":

            async def aio(*scenario: Any, **options: Any) -> Any:
                async with tocsin.guard_channel(grpc.aio.insecure_channel(address), guard) as channel:
                    return await ask_aio(channel, *scenario, **options)

            yield lambda *scenario, **options: asyncio.run(aio(*scenario, **options)), noted
        else:
            inner = grpc.insecure_channel(address)
            with inner if position == "server" else tocsin.guard_channel(inner, guard) as channel:
                yield lambda *scenario, **options: ask(channel, *scenario, **options), noted


def query(initial: Any, trailing: Any) -> str:
    """A request that asks for these scores in the response's metadata."""
    wishes = {
        "initial": [["x-begun", text] for text in ([initial] if isinstance(initial, str) else initial)],
        "trailing": [["x-ended", text] for text in ([trailing] if isinstance(trailing, str) else trailing)],
    }
    return json.dumps(wishes).replace(" ", "")


def last(noted: Noted, count: int) -> tocsin.Verdict:
    """The newest verdict, of so many; sinks are told before callers are, but in observe."""
    for _ in range(2_000):
        if len(noted.verdicts) >= count:
            break
        asyncio.run(asyncio.sleep(0.01))
    assert len(noted.verdicts) == count
    return noted.verdicts[-1]


@pytest.mark.parametrize(("position", "mode"), [where[1:] for where in EVERYWHERE], ids=[w[0] for w in EVERYWHERE])
def test_scores_of_all_three_kinds_of_metadata_are_judged_together(
    position: str, mode: str, scores: Path, tmp_path: Path
) -> None:
    with positioned(position, mode, scores, tmp_path) as (say, noted):
        for number, kind in enumerate(["Rank", "Watch"]):
            outcome = say(kind, [query("900", "10")], metadata=(("x-asked", "3"),))
            assert outcome["code"] is grpc.StatusCode.OK and len(outcome["responses"]) == (1 if kind == "Rank" else 3)
            verdict = last(noted, 2 * number + 1)
            assert (verdict.unscored, verdict.severity) == (None, "critical")
            assert verdict.by_detector["external:begun"] < 0.03 < 0.9 < verdict.by_detector["external:ended"]
            if mode != "observe":
                assert tocsin.Verdict.from_metadata(outcome["verdicts"][0]).severity == "critical"
            calm = say(kind, [query("20", "10")], metadata=(("x-asked", "3"),))
            assert calm["code"] is grpc.StatusCode.OK and last(noted, 2 * number + 2).severity is None


HOSTILE = {
    "nothing": ([], "missing_signal"),
    "empty": ("", "missing_signal"),
    "nan": ("nan", "not_finite"),
    "-inf": ("-inf", "not_finite"),
    "1e999": ("1e999", "not_finite"),
    "more than float32": ("3.5e38", "not_finite"),
    "a word": ("high", "dtype"),
    "hexadecimal": ("0x10", "dtype"),
    "an underscore": ("1_0", "dtype"),
    "other digits": ("1,5", "dtype"),
    "two of them": (["5", "190"], "dtype"),
    "the same twice": (["5", "5"], "dtype"),
    "long": ("1" * 4000, "dtype"),
}


@pytest.mark.parametrize(("position", "mode"), [where[1:] for where in EVERYWHERE], ids=[w[0] for w in EVERYWHERE])
def test_a_hostile_value_is_unscored_wherever_it_stands(position: str, mode: str, scores: Path, tmp_path: Path) -> None:
    with positioned(position, mode, scores, tmp_path) as (say, noted):
        count = 0
        for name, (value, reason) in HOSTILE.items():
            values = [value] if isinstance(value, str) else value
            places = [
                (query("5", "5"), tuple(("x-asked", text) for text in values)),
                (query(value, "5"), (("x-asked", "5"),)),
                (query("5", value), (("x-asked", "5"),)),
            ]
            for text, metadata in places:
                outcome = say("Rank", [text], metadata=metadata)
                count += 1
                assert outcome["code"] is grpc.StatusCode.OK
                assert last(noted, count).unscored == reason, name


def test_where_nothing_may_pass_unscored_a_hostile_value_is_refused(scores: Path, tmp_path: Path) -> None:
    with positioned("relay", "enforce", scores, tmp_path, fail="closed") as (say, _):
        for text, metadata in ((query("5", "nan"), "5"), (query("5", ["5", "6"]), "5"), (query("5", "5"), "high")):
            assert say("Rank", [text], metadata=(("x-asked", metadata),))["code"] is grpc.StatusCode.UNAVAILABLE
        assert say("Rank", [query("5", "5")], metadata=(("x-asked", "5"),))["code"] is grpc.StatusCode.OK


def test_in_enforce_an_alarm_of_the_trailing_metadata_blocks_what_came_before_it(scores: Path, tmp_path: Path) -> None:
    for kind in ("Rank", "Watch"):
        with positioned("relay", "enforce", scores, tmp_path, on_alarm={"critical": "block"}) as (say, _):
            outcome = say(kind, [query("5", "500")], metadata=(("x-asked", "5"),))
            assert (outcome["code"], outcome["responses"]) == (grpc.StatusCode.PERMISSION_DENIED, [])


def test_a_lower_score_may_be_the_worse_one(tmp_path: Path) -> None:
    path = scores_bundle(tmp_path / "lower.tocsin", ("asked",), lower="asked")
    with positioned("relay", "annotate", path, tmp_path, signals={"asked": PLACES["asked"]}) as (say, noted):
        for number, (value, alarm) in enumerate((("0.5", "critical"), ("100", None), ("5000", None))):
            say("Rank", [query([], [])], metadata=(("x-asked", value),))
            assert last(noted, number + 1).severity == alarm


def test_scores_join_with_the_signals_of_messages(tmp_path: Path) -> None:
    """In one bundle, beside a tensor in the same response."""
    rows = {"asked": np.arange(1.0, N + 1)[:, None], "probs": np.random.default_rng(0).dirichlet(np.ones(3), N)}
    scorer = compile([External("asked"), Entropy()], fit_on=Observations(rows))
    promise = calibrate(scorer(Observations(rows)), {"critical": 0.05}, rule="any", detectors=scorer.detectors)
    Bundle(scorer, promise, "digits").write(tmp_path / "both.tocsin")
    signals = {"asked": "metadata.x-asked", "probs": acme.SIGNALS["probs"]}
    config = configured("127.0.0.1:1", tmp_path / "both.tocsin", tmp_path, "annotate", signals=signals)
    guard = tocsin.Guard.open(config)
    sure = acme.Response(model="digits")
    for value in (0.98, 0.01, 0.01):
        sure.scores.add(value=value)
    for score, alarm in (("5", None), ("500", "critical")):
        call = guard.call(acme.PATHS["Rank"], {"x-asked": score})
        assert call is not None and call.on_response_message(sure.SerializeToString()) is call
        guard.judge([call])
        assert call.verdict is not None and call.verdict.severity == alarm
        assert set(call.verdict.by_detector) == {"external", "entropy"}


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.82", 0.82), ("-2.5", -2.5), ("+.5", 0.5), ("1.", 1.0), (" 7\t", 7.0), ("1E-3", 1e-3), ("1e-999", 0.0)],
)
def test_numbers_are_read_as_they_are_usually_written(text: str, number: float) -> None:
    assert number_in(text, "'x'") == number


@pytest.mark.parametrize("text", ["١", "1 2", "1;2", "--1", ".", "e5", "1e", "", "NaN", "1" + "0" * 64])
def test_nothing_else_is_a_number(text: str) -> None:
    with pytest.raises(Unscored):
        number_in(text, "'x'")


@given(st.text() | st.floats(width=32).map(repr) | st.from_regex(r"[-+.0-9eE, naif_]{0,20}", fullmatch=True))
def test_whatever_stands_there_is_a_finite_float32_or_unscored(text: str) -> None:
    try:
        number = number_in(text, "'x'")
    except Unscored as why:
        assert why.reason in ("missing_signal", "not_finite", "dtype")
    else:
        assert np.isfinite(np.float32(number)) and number == float(text)


@pytest.mark.parametrize(
    ("place", "message"),
    [("metadata.X-Risk", "a lower-case key"), ("trailing_metadata.risk-bin", "not -bin"), ("headers.risk", "expected")],
)
def test_places_that_hold_no_score_are_refused_in_words(place: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signal_path(place)


def test_what_cannot_be_judged_is_refused_at_start(scores: Path, tmp_path: Path) -> None:
    one_method = acme.protocol(tmp_path)
    one_method["ranker"]["methods"] = {acme.PATHS["Watch"]: {"model": "response.model"}}
    config = configured("127.0.0.1:1", scores, tmp_path, "annotate", judge="message")
    with pytest.raises(
        ConfigError, match="one score of the whole call, but its messages are judged separately: set judge"
    ):
        tocsin.Guard.open(config.model_copy(update={"protocols": Config(
            upstream="127.0.0.1:1", protocols=one_method, models=config.models).protocols}))  # fmt: skip
    retrying = configured("127.0.0.1:1", scores, tmp_path, "enforce", on_alarm={"critical": "retry"}, retry={"most": 1})
    with pytest.raises(ConfigError, match="retry judges another answer, whose metadata Tocsin does not keep"):
        tocsin.Guard.open(retrying)
    wide = Observations({name: np.random.default_rng(0).dirichlet(np.ones(4), N) for name in PLACES})
    scorer = compile([Entropy(name) for name in PLACES], fit_on=wide)
    Bundle(scorer, calibrate(scorer(wide), {"critical": 0.05}, detectors=scorer.detectors), "digits").write(
        tmp_path / "wide.tocsin"
    )
    with pytest.raises(ConfigError, match="a score in metadata is one number"):
        tocsin.Guard.open(configured("127.0.0.1:1", tmp_path / "wide.tocsin", tmp_path, "annotate"))


@pytest.mark.long
def test_scores_are_recorded_fitted_calibrated_and_served(tmp_path: Path) -> None:
    """As a user types it, on the response's trailers."""
    random = np.random.default_rng(3)
    config = {
        "mode": "annotate", "scoring_budget": "60s", "metrics": None, "admin": None, "listen": "127.0.0.1:0",
        "protocols": acme.protocol(tmp_path),
        "models": {"digits": {"bundle": str(tmp_path / "made.tocsin"), "protocol": "ranker", "judge": "end",
                              "signals": {"toxicity": "trailing_metadata.x-ended"}}},
    }  # fmt: skip
    with served() as address:
        recorder = Recorder.open(Config(upstream=address, **config))
        recorder.start(tmp_path / "recording", 10_000)
        with running(recorder.guard.config, recorder.guard) as relay, grpc.insecure_channel(relay.target) as channel:
            for value in random.beta(2, 8, 400):
                ask(channel, "Rank", [query([], f"{value:.4f}")])
            ask(channel, "Rank", [query([], "nan")])
            ask(channel, "Watch", [query([], "0.25")])
        recorder.close()
        assert recorder.rows == 401
        tocsin_command("fit", tmp_path / "recording", "-o", tmp_path / "made.tocsin", "-d", "external:toxicity")
        said = tocsin_command("calibrate", tmp_path / "made.tocsin", tmp_path / "recording").stdout
        assert "promises, on 240" in said or "promises, on 241" in said
        noted = Noted()
        with running(Config(upstream=address, **config), guard := tocsin.Guard.open(
            Config(upstream=address, **config), [noted])) as relay:  # fmt: skip
            assert guard.models["digits"].scoring is not None
            with grpc.insecure_channel(relay.target) as channel:
                for value, severity in (("0.1", None), ("0.99", "critical")):
                    ask(channel, "Rank", [query([], value)])
                    assert noted.verdicts[-1].severity == severity
