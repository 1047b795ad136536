"""Claim: what `tocsin attach --for` prints is what each gateway's API takes, and means the filter that its mode needs:
what Envoy Gateway and Istio make of it is clean to the check, and judged by a real Envoy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from benchmarks.harness.chat import tokens_bundle
from benchmarks.harness.parts import SIGNALS
from tests import command
from tests.docs.terminal import blocks
from tests.middleware.gateways.envoys import BLOCK, ask, attached_bootstrap, checked, envoy, judged_by, manager
from tests.middleware.gateways.schemas import validate

from tocsin.configuration.config import Config
from tocsin.gateways.envoy_gateway import envoy_gateway
from tocsin.gateways.findings import Effect
from tocsin.gateways.istio import istio
from tocsin.gateways.placement import Placement, milliseconds
from tocsin.judgement.guard import Guard

ROOT = Path(__file__).parents[3]
HERE = ["--target", "Gateway/models", "--namespace", "gateways", "--processor", "tocsin.models:9002"]
POLICIES = ("envoy-gateway", "istio", "agentgateway", "gke")
PLACE = Placement("tocsin", "gateways", "Gateway", "models", "tocsin", "models", 9002)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens_bundle(tmp_path_factory.mktemp("policies") / "tokens.tocsin")


def printed(folder: Path, gateway: str, model: dict[str, Any], *options: str, code: int = 0, **more: Any) -> Any:
    """The documents, or what was said where there are none."""
    content = {"ext_proc": "0.0.0.0:9002", "models": {"m": model}, **more}
    (folder / "tocsin.yaml").write_text(yaml.safe_dump(content))
    words = list(options or HERE)
    if gateway == "gke":
        words = [word.replace("tocsin.models", "tocsin") for word in words]
    done = command.tocsin("attach", folder / "tocsin.yaml", "--for", gateway, *words, code=code)
    return done.stderr if code else (list(yaml.safe_load_all(done.stdout)), done.stdout)


def spec(documents: list[Any]) -> Any:
    return documents[0]["spec"]


@pytest.mark.parametrize("gateway", POLICIES)
@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_every_policy_is_what_its_api_takes(
    gateway: str, mode: str, tokens: Path, bundle: Path, tmp_path: Path
) -> None:
    of_http = {"protocol": "openai", "bundle": str(tokens)}
    of_grpc = {"bundle": str(bundle), "signals": SIGNALS, "session": "metadata.x-session"}
    for model in (of_http, of_grpc):
        for fail in ("open", "closed"):
            documents, text = printed(tmp_path, gateway, model, mode=mode, fail=fail)
            for document in documents:
                validate(document)
            assert text.startswith(f"# For Tocsin in mode {mode}: kubectl apply -f -\n")
            kinds = [document["kind"] for document in documents]
            assert ("ReferenceGrant" in kinds) == (gateway in ("envoy-gateway", "agentgateway"))


def test_modes_of_envoy_gateway(tokens: Path, bundle: Path, tmp_path: Path) -> None:
    of_http = {"protocol": "openai", "bundle": str(tokens)}
    of_grpc = {"bundle": str(bundle), "signals": SIGNALS}
    documents, _ = printed(tmp_path, "envoy-gateway", of_http, mode="observe")
    ext_proc = spec(documents)["extProc"][0]
    assert ext_proc["shadowMode"] and ext_proc["failOpen"] and "messageTimeout" not in ext_proc
    assert ext_proc["processingMode"]["response"]["body"] == "Streamed"
    assert ext_proc["processingMode"]["response"]["attributes"] == ["request.path", "request.method"]
    assert ext_proc["backendRefs"] == [{"name": "tocsin", "namespace": "models", "port": 9002}]
    documents, text = printed(tmp_path, "envoy-gateway", of_grpc, mode="annotate")  # trailers come under duplex alone
    ext_proc = spec(documents)["extProc"][0]
    assert ext_proc["processingMode"]["response"]["body"] == "FullDuplexStreamed" and not ext_proc["failOpen"]
    assert "# Note: failOpen cannot be true" in text
    keyed = of_grpc | {"session": "metadata.x-session"}  # headers of requests are no attributes here
    documents, _ = printed(tmp_path, "envoy-gateway", keyed, mode="observe")
    assert spec(documents)["extProc"][0]["processingMode"]["request"] == {}
    documents, _ = printed(
        tmp_path, "envoy-gateway", of_http | {"ask": True}, mode="enforce", ext_proc_metadata="tocsin"
    )
    ext_proc = spec(documents)["extProc"][0]
    assert ext_proc["processingMode"]["request"] == {"body": "Buffered"}
    assert ext_proc["metadata"] == {"writableNamespaces": ["tocsin"]}
    assert documents[-1]["spec"]["connection"] == {"bufferLimit": str(32 << 20)}
    route = ["--target", "HTTPRoute/chat", "--processor", "tocsin"]
    documents, text = printed(tmp_path, "envoy-gateway", of_http | {"ask": True}, *route, mode="enforce")
    assert len(documents) == 1 and "connection.bufferLimit" in text
    assert spec(documents)["targetRefs"][0]["kind"] == "HTTPRoute"


def test_modes_of_the_others(tokens: Path, bundle: Path, tmp_path: Path) -> None:
    of_http = {"protocol": "openai", "bundle": str(tokens)}
    documents, text = printed(tmp_path, "agentgateway", of_http, mode="observe")
    ext_proc = spec(documents)["traffic"]["extProc"]
    assert ext_proc["processingOptions"]["responseBodyMode"] == "FullDuplexStreamed"
    assert "no mode without replies" in text
    documents, _ = printed(tmp_path, "gke", of_http, mode="observe")
    extension = spec(documents)["extensionChains"][0]["extensions"][0]
    assert extension["observabilityMode"] and extension["responseBodySendMode"] == "Streamed"
    documents, _ = printed(tmp_path, "gke", of_http, mode="enforce", fail="closed")
    extension = spec(documents)["extensionChains"][0]["extensions"][0]
    assert not extension["failOpen"] and extension["responseBodySendMode"] == "FullDuplexStreamed"
    assert extension["authority"] == "tocsin.gateways.svc"


def test_what_an_api_cannot_express_is_refused(tokens: Path, tmp_path: Path) -> None:
    model = {"protocol": "openai", "bundle": str(tokens)}
    asks = model | {"ask": True}
    slow = model | {"on_alarm": {"warning": "retry"}, "retry": {"most": 3, "deadline": "10s"}}
    enforce: dict[str, Any] = {"mode": "enforce"}
    cases: list[tuple[str, dict[str, Any], list[str], dict[str, Any], str]] = [
        ("gke", asks, HERE, enforce, "takes them BUFFERED"),
        ("gke", slow, HERE, enforce | {"upstream": "127.0.0.1:1"}, "waits 10s at most"),
        ("gke", model, HERE, {"ext_proc_metadata": "tocsin"}, "ext_proc_metadata"),
        ("gke", model, ["--target", "HTTPRoute/a"], {}, "for a Gateway"),
        ("agentgateway", model, HERE, {"ext_proc_metadata": "tocsin"}, "ext_proc_metadata"),
        ("istio", model, ["--target", "HTTPRoute/a", "--processor", "tocsin.models"], {}, "a whole gateway"),
        ("istio", model, ["--target", "Gateway/a"], {}, "the namespace too"),
        ("envoy-gateway", model, ["--target", "Gateway/a", "--processor", "tocsin.models"], {}, "--namespace"),
        ("envoy-gateway", model, ["--processor", "tocsin"], {}, "--target"),
        ("envoy-gateway", model, ["--target", "Gateway/a", "--processor", "b:c"], {}, "--processor"),
    ]
    for gateway, content, options, more, reason in cases:
        assert reason in printed(tmp_path, gateway, content, *options, code=2, **more), (gateway, reason)
    assert "ext_proc: is not set" in printed(tmp_path, "gke", model, *HERE, code=2, ext_proc=None)


@pytest.mark.parametrize(("page", "gateway"), [("envoy_gateway", "envoy-gateway"), ("istio", "istio")])
def test_the_docs_show_what_attach_prints(page: str, gateway: str, tokens: Path, tmp_path: Path) -> None:
    shown = {block.file: block.text for block in blocks(ROOT / "docs" / f"{page}.md")}
    content = yaml.safe_load(shown["tocsin.yaml"])
    content["models"]["smollm2"]["bundle"] = str(tokens)
    model = content["models"]["smollm2"]
    documents, _ = printed(tmp_path, gateway, model, *HERE, **{**content, "models": {"smollm2": model}})
    assert documents == list(yaml.safe_load_all(shown[f"{gateway}.yaml"]))
    manifests = helm.Chart.load(str(ROOT / "helm" / "tocsin")).render(
        yaml.safe_load(shown["values.yaml"]), name="tocsin", namespace="models"
    )
    texts = manifests.values() if isinstance(manifests, dict) else [manifests]
    config = next(
        part for text in texts for part in yaml.safe_load_all(str(text)) if part and part.get("kind") == "ConfigMap"
    )
    written = yaml.safe_load(config["data"]["tocsin.yaml"])
    page_config = yaml.safe_load(shown["tocsin.yaml"])
    assert written["models"]["smollm2"] == page_config["models"]["smollm2"] | {"bundle": "/bundles/llm.tocsin"}
    assert {key: written[key] for key in ("ext_proc", "mode", "fail")} == {
        key: page_config[key] for key in ("ext_proc", "mode", "fail")
    }


def test_durations() -> None:
    assert [milliseconds(seconds) for seconds in (1.0, 0.5, 1.005, 61.0)] == ["1s", "500ms", "1005ms", "61s"]


def as_envoy_gateway_does(document: Any, boot: Any) -> None:
    """The filter that Envoy Gateway writes for a policy, in place of what attach prints for Envoy itself."""
    policy = document["spec"]["extProc"][0]
    phases = policy["processingMode"]
    request, response = phases.get("request"), phases.get("response")

    def mode(phase: Any) -> str:
        body = (phase or {}).get("body", "")
        names = {"Streamed": "STREAMED", "Buffered": "BUFFERED", "FullDuplexStreamed": "FULL_DUPLEX_STREAMED"}
        return names.get(body, "NONE")

    content = manager(boot)["http_filters"][0]["typed_config"]
    content.clear()
    content.update(
        {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "tocsin"}, "timeout": "10s"},
            "failure_mode_allow": policy["failOpen"],
            "observability_mode": policy.get("shadowMode", False),
            "response_attributes": (response or {}).get("attributes", []),
            "processing_mode": {
                "request_header_mode": "SKIP" if request is None else "SEND",
                "request_body_mode": mode(request),
                "request_trailer_mode": "SEND" if mode(request) == "FULL_DUPLEX_STREAMED" else "SKIP",
                "response_header_mode": "SKIP" if response is None else "SEND",
                "response_body_mode": mode(response),
                "response_trailer_mode": "SEND" if mode(response) == "FULL_DUPLEX_STREAMED" else "SKIP",
            },
        }
    )
    if "messageTimeout" in policy:
        text = policy["messageTimeout"]
        content["message_timeout"] = f"{float(text[:-2]) / 1000}s" if text.endswith("ms") else text
    manager(boot)["http_filters"][0]["disabled"] = True  # and each route that the policy is for enables it
    enabled = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
    route = manager(boot)["route_config"]["virtual_hosts"][0]["routes"][0]
    route["typed_per_filter_config"] = {"envoy.filters.http.ext_proc": enabled}


def as_istio_does(document: Any, boot: Any) -> None:
    """The patches of an EnvoyFilter."""
    static = boot["static_resources"]
    del manager(boot)["http_filters"][0]
    port = static["clusters"].pop()["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    for patch in document["spec"]["configPatches"]:
        value = patch["patch"]["value"]
        if patch["applyTo"] == "HTTP_FILTER":
            manager(boot)["http_filters"].insert(0, value)
        elif patch["applyTo"] == "CLUSTER":
            value["type"] = "STATIC"  # there is no DNS of a cluster here
            value["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = port
            static["clusters"].append(value)
        else:
            static["listeners"][0].update(value)


GATEWAYS = {"envoy gateway": (envoy_gateway, as_envoy_gateway_does), "istio": (istio, as_istio_does)}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_what_the_gateways_make_of_it_is_clean(gateway: str, tokens: Path, bundle: Path) -> None:
    write, apply = GATEWAYS[gateway]
    for mode in ("observe", "annotate", "enforce"):
        for fail in ("open", "closed"):
            for model in (
                {"protocol": "openai", "bundle": tokens},
                {"protocol": "openai", "bundle": tokens, "ask": True},
                {"bundle": bundle, "signals": SIGNALS, "session": "metadata.x-session"},
            ):
                config = Config(ext_proc="127.0.0.1:9002", mode=mode, fail=fail, models={"m": model})  # type: ignore[arg-type]
                guard = Guard.open(config)
                boot = attached_bootstrap(config, guard)
                apply(write(config, guard, PLACE).documents[0], boot)
                findings = [finding for finding in checked(boot, config, guard) if finding.effect is not Effect.NOTE]
                assert findings == [], (mode, fail, model)


@pytest.mark.long
@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_a_real_envoy_judges_with_it(gateway: str, mode: str, tokens: Path, tmp_path: Path) -> None:
    write, apply = GATEWAYS[gateway]
    more: dict[str, Any] = {"fail": "closed", **BLOCK} if mode == "enforce" else {}
    with judged_by(tokens, mode, **more) as (config, guard, upstream, sidecar):
        boot = attached_bootstrap(config, guard, upstream, codec="HTTP1")
        apply(write(config, guard, PLACE).documents[0], boot)
        with envoy(boot, tmp_path / "envoy") as url:
            answers = {(prompt, streams): ask(url, prompt, streams=streams) for prompt in ("safe", "far")
                       for streams in (False, True)}  # fmt: skip
        assert all(answers["safe", streams].status_code == 200 for streams in (False, True))
        for streams in (False, True):
            assert answers["far", streams].status_code == (403 if mode == "enforce" else 200)
        has_verdicts = "tocsin-verdict" in answers["safe", False].headers and b"tocsin" in answers["safe", True].content
        assert has_verdicts == (mode != "observe")
        counted = [line for line in sidecar.metrics.splitlines() if line.startswith("tocsin_responses_total")]
        judged = [float(line.rpartition(" ")[2]) for line in counted if 'decision="unscored"' not in line]
        assert sum(judged) == 4, counted
