"""Claims about a service of one's own: any method is guarded, by descriptors or reflection, or the fault is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness import ranker as acme
from benchmarks.harness.certificates import Authority
from benchmarks.harness.parts import far_away, running, safe_traffic
from tests.middleware.protocols.bundles import bundle_of

import tocsin
from tocsin.configuration.config import Config
from tocsin.configuration.listener import UpstreamTls
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin_calibration import Bundle
from tocsin_detectors import Observations

SAFE = safe_traffic(40, seed=11)


@contextmanager
def own_protocol(bundle: Path, folder: Path, **more: Any) -> Iterator[tuple[Any, Any]]:
    answers = {f"safe{row}": acme.answer(SAFE, row) for row in range(3)} | {"far": acme.answer(far_away(1), 0)}
    with acme.ranker(answers, reflecting="reflection" in more) as (_server, address):
        protocols = acme.protocol(folder)
        if more.pop("reflection", False):
            protocols["ranker"] |= {"descriptors": "", "reflection": True}
        config = Config(
            listen="127.0.0.1:0", upstream=address, mode="annotate", metrics=None, admin=None, protocols=protocols,
            models={"digits": {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS, **more}},
        )  # fmt: skip
        with running(config) as relay, grpc.insecure_channel(relay.target) as channel:
            yield relay, channel


@pytest.mark.parametrize("more", [{}, {"reflection": True}])
def test_any_method_is_guarded_from_descriptors_or_by_reflection(bundle: Path, tmp_path: Path, more: Any) -> None:
    with own_protocol(bundle, tmp_path, **more) as (_, channel):
        call = channel.unary_unary(acme.PATHS["Rank"], acme.Request.SerializeToString, acme.Response.FromString)
        _, safe = call.with_call(acme.Request(query="safe1"), timeout=60)
        _, far = call.with_call(acme.Request(query="far"), timeout=60)
    expected = Bundle.read(bundle).require_promise().judge(Bundle.read(bundle).scorer(SAFE.take(slice(1, 2))))
    assert tocsin.verdict(safe).pvalues == pytest.approx(expected.pvalues, rel=1e-4)
    assert tocsin.verdict(far).severity == "critical"


def test_reflection_is_asked_with_tls_where_the_upstream_has_it(bundle: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    protocols = acme.protocol(tmp_path)
    protocols["ranker"] |= {"descriptors": "", "reflection": True}
    model = {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS}
    with acme.ranker({}, reflecting=True, pair=authority.sign("server")) as (_server, address):
        config = Config(upstream=address, upstream_tls={"ca": authority.ca}, protocols=protocols, models={"m": model})
        assert Guard.open(config).call(acme.PATHS["Rank"], {}) is not None
        missing = config.model_copy(update={"upstream_tls": UpstreamTls(ca=tmp_path / "none.pem")})
        with pytest.raises(ConfigError, match=r"ranker: .*upstream_tls: .*none\.pem: cannot be read \(No such file"):
            Guard.open(missing)


def test_sessions_are_told_by_a_field_of_the_request(bundle: Path, tmp_path: Path) -> None:
    with own_protocol(bundle, tmp_path, session="request.user") as (relay, channel):
        call = channel.unary_unary(acme.PATHS["Rank"], acme.Request.SerializeToString, acme.Response.FromString)
        call(acme.Request(query="safe1", user="u-7"), timeout=60)
        model = relay.sidecar.relay.context.guard.models["digits"]
        guarded_call = relay.sidecar.relay.context.guard.call(acme.PATHS["Rank"], {})
        guarded_call.on_request_message(acme.Request(query="x", user="u-7").SerializeToString())
        assert model.session_of(guarded_call) == "u-7"


def test_model_and_version_may_be_told_by_metadata(bundle: Path, tmp_path: Path) -> None:
    protocols = acme.protocol(tmp_path)
    for method in protocols["ranker"]["methods"].values():
        method |= {"model": "metadata.x-model", "version": "metadata.x-version"}
    model = {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS}
    by = Guard.open(Config(protocols=protocols, models={"digits": model, "other": model}))
    for metadata, expected in (
        ({"x-model": "digits", "x-version": "7"}, ("digits", "7", None)),
        ({}, ("other", "", None)),
    ):
        call = by.call(acme.PATHS["Rank"], {**metadata, "x-strange": "1"})
        assert call is not None and set(call.keys) == set(metadata)
        call.on_response_message(acme.answer(SAFE, 0))
        by.judge([call])
        verdict = call.verdict
        assert verdict is not None
        assert (verdict.model, verdict.version) == expected[:2]
        assert verdict.unscored == (None if metadata else "unknown_model")


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"probs": "response.score[].value"}, "RankResponse has no field 'score' (it has: model, scores, vector, id)"),
        ({"probs": "response.scores.value"}, "'scores' is repeated: say [] for all, [*] for responses, or which one"),
        ({"probs": "response.scores[].label"}, "holds no numbers"),
        ({"probs": "response.model[].x"}, "'model' is not repeated"),
        ({"probs": "response.scores[][*].value"}, "is not repeated, so it takes no [*]"),
        ({"probs": {"bytes": "response.model.data", "dtype": "FP32"}}, "asked of a field that holds no message"),
        ({"probs": {"bytes": "response.vector.data", "dtype": "response.vector.sort"}}, "no field 'sort'"),
    ],
)
def test_a_path_that_does_not_fit_is_told_with_what_there_is(
    bundle: Path, tmp_path: Path, signals: Any, message: str
) -> None:
    path = tmp_path / "p.tocsin"
    bundle_of(path, ["entropy"], Observations({"probs": SAFE["probs"]}))
    model = {"bundle": path, "protocol": "ranker", "signals": signals}
    with pytest.raises(ConfigError) as caught:
        Guard.open(Config(protocols=acme.protocol(tmp_path), models={"digits": model}))
    assert message in str(caught.value) and "models.digits.signals" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptors": "none.binpb"}, "protocols.ranker: descriptors: none.binpb: cannot be read"),
        ({"descriptors": __file__}, "make one: protoc --include_imports --descriptor_set_out=FILE"),
        ({"descriptors": ""}, "descriptors: is required"),
        ({"reflection": True}, "does not send its descriptors"),
        ({"methods": {"/acme.v1.Ranker/Rate": {}}}, "has no method 'Rate' (it has: Rank, Watch, Sum, Chat)"),
        ({"methods": {"/acme.v2.Ranker/Rank": {}}}, "there is no service 'acme.v2.Ranker'"),
        ({"methods": {"acme.v1.Ranker.Rank": {}}}, "a method is written /PACKAGE.SERVICE/METHOD"),
        ({"methods": {"/acme.v1.Ranker/Rank": {"model": "response.scores"}}}, "is not one value"),
    ],
)
def test_a_protocol_that_does_not_fit_is_told(bundle: Path, tmp_path: Path, change: Any, message: str) -> None:
    protocols = acme.protocol(tmp_path)
    protocols["ranker"] |= change
    model = {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS}
    with pytest.raises(ConfigError) as caught:
        Guard.open(Config(upstream="127.0.0.1:1", protocols=protocols, models={"digits": model}))
    assert message in str(caught.value)
