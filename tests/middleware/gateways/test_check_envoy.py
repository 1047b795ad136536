"""Claim: `tocsin attach --check` names each line of an Envoy's configuration that lets responses pass unjudged, and a
real Envoy with that line does let them pass; with what attach prints, it is clean, and they are judged.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.harness.chat import config, tokens_bundle
from benchmarks.harness.parts import SIGNALS
from tests import command
from tests.middleware.gateways.envoys import (
    BLOCK,
    Change,
    ask,
    attached_bootstrap,
    checked,
    envoy,
    judged_by,
    manager,
    modes,
    nothing,
    processor,
    route,
    setting,
    settings,
)

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.gateways.document import read
from tocsin.gateways.findings import Effect, breaks_closed
from tocsin.judgement.guard import Guard

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
NAME = "envoy.filters.http.ext_proc"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens_bundle(tmp_path_factory.mktemp("gateways") / "tokens.tocsin")


def of_http(tokens: Path, mode: str, **more: Any) -> tuple[Config, Guard]:
    guard = Guard.open(config(tokens, mode, **more))
    return guard.config.model_copy(update={"ext_proc": Address("127.0.0.1", 9002)}), guard


def of_grpc(bundle: Path, mode: str, **more: Any) -> tuple[Config, Guard]:
    model = {"bundle": bundle, "signals": SIGNALS, **more.pop("model", {})}
    config = Config(ext_proc="127.0.0.1:9002", mode=mode, models={"digits": model}, **more)
    return config, Guard.open(config)


def per_route(**content: Any) -> Change:
    return lambda boot: route(boot).update(typed_per_filter_config={NAME: {"@type": PER_ROUTE, **content}})


def without_filter(boot: Any) -> None:
    del manager(boot)["http_filters"][0]


def http1(boot: Any) -> None:
    del processor(boot)["typed_extension_protocol_options"]


def few(boot: Any) -> None:
    processor(boot)["circuit_breakers"] = {"thresholds": [{"max_requests": 0}]}


def rewritten(boot: Any) -> None:
    manager(boot)["route_config"]["virtual_hosts"][0]["routes"][0] = {
        "match": {"prefix": "/llm/"},
        "route": {"cluster": "model", "prefix_rewrite": "/v1/"},
    }
    settings(boot)["processing_mode"]["request_header_mode"] = "SEND"


def bytes_only(boot: Any) -> None:
    chain = {"cluster": "model", "stat_prefix": "tcp"}
    kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    tcp = {"name": "envoy.filters.network.tcp_proxy", "typed_config": {"@type": kind, **chain}}
    boot["static_resources"]["listeners"].append(
        {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
            "filter_chains": [{"filters": [tcp]}],
        }
    )


def behind(kind: str, name: str, **content: Any) -> Change:
    filter_ = {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}"}}
    filter_["typed_config"].update(content)  # type: ignore[attr-defined]
    return lambda boot: manager(boot)["http_filters"].insert(1, filter_)


def test_what_attach_prints_is_clean(tokens: Path, bundle: Path) -> None:
    for mode in ("observe", "annotate", "enforce"):
        for fail in ("open", "closed") if mode == "enforce" else ("open",):
            for pair in (of_http(tokens, mode, fail=fail), of_http(tokens, mode, fail=fail, ask=True)):
                assert checked(attached_bootstrap(*pair), *pair) == []
            pair = of_grpc(bundle, mode, fail=fail)
            assert checked(attached_bootstrap(*pair), *pair) == []


# name, mode, what is wrong, effect, what the finding says, and what is to be written
FAULTS: list[tuple[str, dict[str, Any], Change, Effect, str, str]] = [
    ("none", {}, without_filter, Effect.PASSES, "no filter asks Tocsin", "before envoy.filters.http.router"),
    ("disabled", {}, lambda boot: manager(boot)["http_filters"][0].update(disabled=True), Effect.PASSES,
     "no route enables it", "disabled"),
    ("route", {}, per_route(disabled=True), Effect.PASSES, "disabled for this route", "disabled"),
    ("override", {}, per_route(overrides={"processing_mode": {"response_body_mode": "NONE"}}), Effect.PASSES, "NONE",
     "FULL_DUPLEX_STREAMED"),
    ("elsewhere", {}, per_route(overrides={"grpc_service": {"envoy_grpc": {"cluster_name": "other"}}}), Effect.PASSES,
     "another processor (other)", "overrides"),
    ("body", {}, modes(response_body_mode="NONE"), Effect.PASSES, "do not come", "FULL_DUPLEX_STREAMED"),
    ("partial", {}, modes(response_body_mode="BUFFERED_PARTIAL"), Effect.PASSES, "only a part", "FULL_DUPLEX"),
    ("grpc mode", {}, modes(response_body_mode="GRPC"), Effect.PASSES, "does not work", "FULL_DUPLEX"),
    ("streamed", {}, modes(response_body_mode="STREAMED"), Effect.NOT_HELD, "cannot be withheld", "FULL_DUPLEX"),
    ("streamed", {"fail": "closed"}, modes(response_body_mode="STREAMED"), Effect.FAILS, "refuses", "FULL_DUPLEX"),
    ("told", {"mode": "annotate"}, modes(response_body_mode="STREAMED"), Effect.UNTOLD, "headers", "FULL_DUPLEX"),
    ("headers", {}, modes(response_header_mode="SKIP"), Effect.PASSES, "content type", "response_header_mode: SEND"),
    ("headers", {"fail": "closed"}, modes(response_header_mode="SKIP"), Effect.FAILS, "content type", "SEND"),
    ("trailers", {}, modes(response_trailer_mode="SKIP"), Effect.FAILS, "does not start", "SEND"),
    ("path", {}, setting(response_attributes=[]), Effect.PASSES, "no method is known", "request.path"),
    ("observing", {}, setting(observability_mode=True), Effect.NOT_HELD, "no replies", "false"),
    ("failing", {"fail": "closed"}, setting(failure_mode_allow=True), Effect.MAY_PASS, "is away", "allow: false"),
    ("failing", {}, setting(failure_mode_allow=False), Effect.NOTE, "is away", "allow: true"),
    ("timeout", {"scoring_budget": "2s"}, lambda boot: (
        modes(response_body_mode="BUFFERED")(boot), setting(message_timeout="0.5s")(boot)), Effect.MAY_PASS,
     "which may take 2s", "message_timeout: 3s"),
    ("closing", {"mode": "observe"}, setting(deferred_close_timeout="0.01s"), Effect.MAY_PASS, "last part", "5s"),
    ("override allowed", {}, setting(allow_mode_override=True), Effect.NOTE, "allow_mode_override", "false"),
    ("immediate", {}, setting(disable_immediate_response=True), Effect.NOT_HELD, "immediate", "false"),
    ("mutations", {"mode": "annotate"}, setting(mutation_rules={"disallow_all": True}), Effect.UNTOLD,
     "tocsin-verdict", "mutation_rules"),
    ("forwarded", {}, setting(forward_rules={"disallowed_headers": {"patterns": [{"prefix": "content-"}]}}),
     Effect.MAY_PASS, "content-type, content-encoding", "forward_rules"),
    ("ask", {"ask": True}, modes(request_body_mode="NONE"), Effect.MAY_PASS, "(ask)", "request_body_mode: BUFFERED"),
    ("ask", {"ask": True}, modes(request_body_mode="STREAMED"), Effect.MAY_PASS, "not STREAMED", "BUFFERED"),
    ("http service", {}, lambda boot: settings(boot).pop("grpc_service") and setting(
        http_service={"http_service": {"http_uri": {"uri": "x", "cluster": "tocsin", "timeout": "1s"}}})(boot),
     Effect.PASSES, "no filter asks Tocsin", "attach"),
    ("rewritten", {}, rewritten, Effect.PASSES, "/llm/chat/completions is rewritten", "request.path"),
    ("tcp", {}, bytes_only, Effect.PASSES, "tcp_proxy", "http_connection_manager"),
    ("http1", {}, http1, Effect.PASSES, "HTTP/1.1", "http2_protocol_options"),
    ("http1", {"fail": "closed"}, http1, Effect.FAILS, "HTTP/1.1", "http2_protocol_options"),
    ("few", {}, few, Effect.MAY_PASS, "at most 0 exchanges", "100000"),
    ("no breaker", {}, lambda boot: processor(boot).pop("circuit_breakers"), Effect.MAY_PASS, "1,024", "100000"),
    ("tls", {}, lambda boot: processor(boot).update(transport_socket={"name": "tls"}), Effect.PASSES, "has no TLS",
     "no transport_socket"),
    ("no cluster", {}, lambda boot: boot["static_resources"]["clusters"].pop(), Effect.PASSES, "no such cluster",
     "attach"),
    ("buffer", {}, lambda boot: (modes(response_body_mode="BUFFERED")(boot), boot["static_resources"]["listeners"][0].
     update(per_connection_buffer_limit_bytes=1024)), Effect.FAILS, "500 to responses of more than 1,024 bytes",
     "per_connection_buffer_limit"),
    ("buffer", {"ask": True}, lambda boot: boot["static_resources"]["listeners"][0].update(
        per_connection_buffer_limit_bytes=1024), Effect.FAILS, "413 to requests of more than 1,024 bytes",
     "per_connection_buffer_limit"),
    ("behind the router", {}, lambda boot: manager(boot)["http_filters"].reverse(), Effect.FAILS, "does not start",
     "before envoy.filters.http.router"),
    ("brotli", {}, behind("compressor.v3.Compressor", "c", compressor_library={"name": "b", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.compression.brotli.compressor.v3.Brotli"}}), Effect.MAY_PASS,
     "the package brotli", "the router"),
    ("scoped", {}, lambda boot: manager(boot).pop("route_config") and manager(boot).update(scoped_routes={}),
     Effect.UNSEEN, "scoped", ""),
    ("rds", {}, lambda boot: manager(boot).pop("route_config") and manager(boot).update(
        rds={"route_config_name": "r"}), Effect.UNSEEN, "config_dump", ""),
    ("no route", {}, lambda boot: route(boot)["match"].update(prefix="/other"), Effect.UNSEEN, "no route", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "more", "change", "effect", "wrong", "written"),
    FAULTS,
    ids=[f"{n}-{fault[0]}" for n, fault in enumerate(FAULTS)],
)
def test_each_fault_is_named(
    name: str, more: dict[str, Any], change: Change, effect: Effect, wrong: str, written: str, tokens: Path
) -> None:
    options = dict(more)
    config, guard = of_http(tokens, options.pop("mode", "enforce"), **options)
    boot = attached_bootstrap(config, guard)
    change(boot)
    findings = checked(boot, config, guard)
    matching = [finding for finding in findings if finding.effect is effect and wrong in finding.wrong]
    assert matching, findings
    assert written in matching[0].change


def test_the_faults_of_grpc(bundle: Path) -> None:
    transcoder = behind("grpc_json_transcoder.v3.GrpcJsonTranscoder", "transcoder")
    cases = [
        ("annotate", modes(response_trailer_mode="SKIP"), Effect.UNTOLD, "trailers"),
        ("annotate", transcoder, Effect.PASSES, "sees JSON instead of gRPC"),
        ("annotate", behind("grpc_web.v3.GrpcWeb", "web"), Effect.PASSES, "gRPC-Web"),
        ("observe", setting(response_attributes=["request.path"]), Effect.NOTE, "x-session"),
    ]
    for mode, change, effect, wrong in cases:
        config, guard = of_grpc(bundle, mode, model={"session": "metadata.x-session"})
        boot = attached_bootstrap(config, guard)
        change(boot)
        assert any(finding.effect is effect and wrong in finding.wrong for finding in checked(boot, config, guard)), (
            wrong
        )


def test_routes_are_followed_in_their_order(tokens: Path) -> None:
    config, guard = of_http(tokens, "enforce")
    boot = attached_bootstrap(config, guard)
    off = {NAME: {"@type": PER_ROUTE, "disabled": True}}
    host = manager(boot)["route_config"]["virtual_hosts"][0]
    host["routes"] = [
        {"match": {"path": "/healthz"}, "route": {"cluster": "model"}, "typed_per_filter_config": off},
        {"match": {"prefix": "/v1/"}, "route": {"cluster": "model"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "model"}, "typed_per_filter_config": off},
    ]
    assert checked(boot, config, guard) == []  # no guarded method is behind the routes that switch the filter off
    host["routes"][1]["match"]["headers"] = [{"name": "x-tier", "string_match": {"exact": "gold"}}]
    (finding,) = checked(boot, config, guard)
    assert "route model/2" in finding.where and breaks_closed(finding, closed=False)
    enabled = {NAME: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}}
    manager(boot)["http_filters"][0]["disabled"] = True
    host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": "model"}, "typed_per_filter_config": enabled}]
    assert checked(boot, config, guard) == []


def test_lines_and_camel_case() -> None:
    content = read("staticResources:\n  listeners:\n  - name: a\n    perConnectionBufferLimitBytes: 5\n", "x")
    listener = content["static_resources"]["listeners"][0]
    assert listener["per_connection_buffer_limit_bytes"] == 5
    assert listener.line_of("per_connection_buffer_limit_bytes") == 4


def test_the_command(tokens: Path, tmp_path: Path) -> None:
    config, guard = of_http(tokens, "enforce", fail="closed")
    model = {"protocol": "openai", "bundle": str(tokens)}
    content = {"ext_proc": "127.0.0.1:9002", "mode": "enforce", "fail": "closed", "models": {"m": model}}
    (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump(content))
    boot = attached_bootstrap(config, guard)
    (tmp_path / "envoy.yaml").write_text(yaml.safe_dump(boot, sort_keys=False))
    good = command.tocsin("attach", tmp_path / "tocsin.yaml", "--check", tmp_path / "envoy.yaml")
    assert good.stdout == "nothing passes unjudged that must be judged (fail: closed); findings: 0\n"
    modes(response_body_mode="NONE")(boot)
    text = yaml.safe_dump(boot, sort_keys=False)
    (tmp_path / "envoy.yaml").write_text(text)
    bad = command.tocsin("attach", tmp_path / "tocsin.yaml", "--check", tmp_path / "envoy.yaml", code=1)
    line = text.splitlines().index(next(line for line in text.splitlines() if "response_body_mode" in line)) + 1
    assert f"envoy.yaml:{line}: listener 0, route model/0: what comes this way passes unjudged" in bad.stdout
    assert "write: response_body_mode: FULL_DUPLEX_STREAMED" in bad.stdout
    (tmp_path / "other.yaml").write_text("a: 1")
    wrong = command.tocsin("attach", tmp_path / "tocsin.yaml", "--check", tmp_path / "other.yaml", code=2)
    assert "neither static_resources" in wrong.stderr


# what lets alarms pass a real Envoy: with it, the strange answer reaches its caller
SHOWN: list[tuple[str, dict[str, Any], Change, str]] = [
    ("no filter", {}, without_filter, "/v1/chat/completions"),
    ("route", {}, per_route(disabled=True), "/v1/chat/completions"),
    ("override", {}, per_route(overrides={"processing_mode": {"response_body_mode": "NONE"}}), "/v1/chat/completions"),
    ("body", {}, modes(response_body_mode="NONE"), "/v1/chat/completions"),
    ("grpc mode", {}, modes(response_body_mode="GRPC"), "/v1/chat/completions"),
    ("headers", {}, modes(response_header_mode="SKIP"), "/v1/chat/completions"),
    ("path", {}, setting(response_attributes=[]), "/v1/chat/completions"),
    ("observing", {}, lambda boot: (modes(response_body_mode="STREAMED")(boot), setting(observability_mode=True)(boot)),
     "/v1/chat/completions"),
    ("immediate", {}, lambda boot: (modes(response_body_mode="BUFFERED")(boot),
     setting(disable_immediate_response=True)(boot)), "/v1/chat/completions"),
    ("rewritten", {}, rewritten, "/llm/chat/completions"),
    ("http1", {}, lambda boot: (modes(response_body_mode="BUFFERED")(boot), http1(boot)), "/v1/chat/completions"),
    ("few", {}, lambda boot: (modes(response_body_mode="BUFFERED")(boot), few(boot)), "/v1/chat/completions"),
    ("failing", {"fail": "closed"}, lambda boot: (modes(response_body_mode="BUFFERED")(boot),
     setting(failure_mode_allow=True)(boot), http1(boot)), "/v1/chat/completions"),
    ("timeout", {"fail": "closed"}, lambda boot: (modes(response_body_mode="BUFFERED")(boot),
     setting(failure_mode_allow=True, message_timeout="0.000001s")(boot)), "/v1/chat/completions"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("name", "more", "change", "path"), SHOWN, ids=[shown[0] for shown in SHOWN])
def test_a_real_envoy_lets_pass_what_the_check_names(
    name: str, more: dict[str, Any], change: Change, path: str, tokens: Path, tmp_path: Path
) -> None:
    with judged_by(tokens, "enforce", **BLOCK, **more) as (config, guard, upstream, _):
        boot = attached_bootstrap(config, guard, upstream, codec="HTTP1")
        assert checked(boot, config, guard) == []
        with envoy(boot, tmp_path / "mended") as url:
            assert ask(url, "far").status_code == 403
            assert ask(url, "far", streams=True).status_code == 403
            assert ask(url, "safe").status_code == 200
        change(boot)
        findings = checked(boot, config, guard)
        worst = {Effect.PASSES, Effect.NOT_HELD, Effect.MAY_PASS}
        assert any(finding.effect in worst for finding in findings), findings
        with envoy(boot, tmp_path / "faulty") as url:
            passed = ask(url, "far", path)
            assert passed.status_code == 200 and b'"logprob":-6.0' in passed.content


@pytest.mark.long
def test_a_real_envoy_refuses_requests_that_it_does_not_buffer(tokens: Path, tmp_path: Path) -> None:
    with judged_by(tokens, "annotate", ask=True) as (config, guard, upstream, _):
        boot = attached_bootstrap(config, guard, upstream, codec="HTTP1")
        boot["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = 1_024
        (finding,) = checked(boot, config, guard)
        assert "413 to requests of more than 1,024 bytes" in finding.wrong
        with envoy(boot, tmp_path) as url:
            assert [ask(url, prompt).status_code for prompt in ("safe", "safe" * 5_000)] == [200, 413]


@pytest.mark.long
def test_a_body_without_headers_is_counted_and_refused(tokens: Path, tmp_path: Path) -> None:
    """The filter sends no response headers: nothing passes uncounted, and with `fail: closed` nothing passes."""
    for body in ("BUFFERED", "FULL_DUPLEX_STREAMED"):
        for fail in ("open", "closed"):
            with judged_by(tokens, "enforce", **BLOCK, fail=fail) as (config, guard, upstream, sidecar):
                boot = attached_bootstrap(config, guard, upstream, codec="HTTP1")
                modes(response_header_mode="SKIP", response_body_mode=body)(boot)
                with envoy(boot, tmp_path / f"{body}-{fail}") as url:
                    answer = ask(url, "safe")
                    assert (answer.status_code == 200) == (fail == "open")
                lines = sidecar.metrics.splitlines()
                assert 'tocsin_unscored_total{model="m",reason="not_sent"} 1' in lines
                assert 'tocsin_ext_proc_misfits_total{reason="no_headers"} 1.0' in lines


@pytest.mark.long
def test_a_dump_of_a_running_envoy_is_read(tokens: Path, tmp_path: Path) -> None:
    with judged_by(tokens, "enforce", **BLOCK) as (config, guard, upstream, _):
        for change, effects in ((nothing, set()), (per_route(disabled=True), {Effect.PASSES})):
            boot = attached_bootstrap(config, guard, upstream, codec="HTTP1")
            change(boot)
            admin = boot["admin"]["address"]["socket_address"]["port_value"]
            with envoy(boot, tmp_path / change.__name__.strip("<>")):
                with urllib.request.urlopen(f"http://127.0.0.1:{admin}/config_dump") as answer:
                    dump = json.load(answer)
            assert {finding.effect for finding in checked(dump, config, guard)} == effects
