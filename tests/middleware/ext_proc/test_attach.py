"""Claim: `tocsin attach` prints what the docs show, and a real Envoy starts with it before a real `tocsin serve`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.envoy import running_envoy
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, at_once, free_port
from benchmarks.harness.ranker import protocol
from tests import command
from tests.docs.terminal import blocks
from tests.middleware.ext_proc.served import ANSWERS, eventually, verdicts

from tocsin.configuration.config import Config
from tocsin.errors import ConfigError

ROOT = Path(__file__).parents[3]
SHOWN = {block.file: block.text for block in blocks(ROOT / "docs" / "envoy.md")}


def shown() -> dict[str, Any]:
    """The configuration that the page begins with."""
    content: dict[str, Any] = yaml.safe_load(SHOWN["tocsin.yaml"])
    return content


def printed(folder: Path, content: dict[str, Any], *options: str) -> dict[str, Any]:
    file = folder / "tocsin.yaml"
    file.write_text(yaml.safe_dump(content))
    read: dict[str, Any] = yaml.safe_load(command.tocsin("attach", file, *options).stdout)
    return read


def with_bundle(bundle: Path, **more: Any) -> dict[str, Any]:
    content = shown() | more
    content["models"]["digits"]["bundle"] = str(bundle)
    return content


@pytest.mark.parametrize("mode", ["observe", "annotate", "enforce"])
def test_the_docs_show_what_attach_prints(mode: str, bundle: Path, tmp_path: Path) -> None:
    written = printed(tmp_path, with_bundle(bundle, mode=mode))
    assert {"http_filters": written["http_filters"]} == yaml.safe_load(SHOWN[f"envoy-{mode}.yaml"])
    assert {"clusters": written["clusters"]} == yaml.safe_load(SHOWN["cluster.yaml"])


def test_the_filter_follows_what_is_configured(bundle: Path, tmp_path: Path) -> None:
    retry = {"on_alarm": {"critical": "retry"}, "retry": {"most": 2, "deadline": "3s"}}
    content = with_bundle(bundle, mode="enforce", fail="closed", upstream="127.0.0.1:1")
    content["models"]["digits"] |= retry
    written = printed(tmp_path, content, "--processor", "tocsin.models:9002", "--cluster", "guard")
    settings = written["http_filters"][0]["typed_config"]
    assert settings["failure_mode_allow"] is False and settings["message_timeout"] == "7s"
    assert settings["processing_mode"]["request_header_mode"] == "SEND"
    assert settings["processing_mode"]["request_body_mode"] == "STREAMED"  # ModelStreamInfer has a stream of requests
    assert settings["grpc_service"]["envoy_grpc"]["cluster_name"] == "guard"
    (cluster,) = written["clusters"]
    assert (cluster["name"], cluster["type"]) == ("guard", "STRICT_DNS")
    unary = protocol(tmp_path)["ranker"]
    unary["methods"] = {path: method for path, method in unary["methods"].items() if path.endswith("/Rank")}
    content |= {"protocols": {"ranker": unary}}
    content["models"]["digits"] |= {"protocol": "ranker", "signals": {"probs": "response.scores[].value",
        "embedding": {"bytes": "response.vector.data", "dtype": "response.vector.kind",
                      "shape": "response.vector.shape"}}}  # fmt: skip
    modes = printed(tmp_path, content)["http_filters"][0]["typed_config"]["processing_mode"]
    assert (modes["request_body_mode"], modes["response_body_mode"]) == ("BUFFERED", "BUFFERED")


def test_a_configuration_without_the_port_is_told(bundle: Path, tmp_path: Path) -> None:
    content = with_bundle(bundle)
    del content["ext_proc"]
    (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump(content))
    assert "ext_proc: is not set" in command.tocsin("attach", tmp_path / "tocsin.yaml", code=2).stderr
    with pytest.raises(ConfigError, match="connection to ext_proc is not a caller's"):
        content = with_bundle(bundle)
        content["models"]["digits"]["session"] = "connection"
        (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump(content))
        Config.load(tmp_path / "tocsin.yaml")


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_serve_and_attach_stand_behind_envoy(workers: int, bundle: Path, tmp_path: Path) -> None:
    ports = {"ext_proc": f"127.0.0.1:{free_port()}", "metrics": f"127.0.0.1:{free_port()}"}
    content = with_bundle(bundle, mode="annotate", admin=None, workers=workers, scoring_budget="60s", **ports)
    if workers > 1:
        content["models"]["digits"].pop("session")
    written = printed(tmp_path, content)
    serving = subprocess.Popen(
        [sys.executable, "-m", "tocsin", "serve", "-c", str(tmp_path / "tocsin.yaml")], env=at_once(), stderr=-1
    )
    try:
        with model_server() as (model, address):
            model.answers = dict(ANSWERS)

            def metrics() -> str:
                try:
                    with urllib.request.urlopen(f"http://{ports['metrics']}/metrics") as answer:
                        return str(answer.read().decode())
                except OSError:
                    return ""

            assert eventually(lambda: bool(metrics()), 60)
            with running_envoy(tmp_path / "envoy", address, written["http_filters"], written["clusters"]) as envoy:
                with grpc.insecure_channel(envoy.target) as channel:

                    def judged() -> bool:
                        _, call = channel.unary_unary(INFER).with_call(b"far", timeout=60)
                        return [json.loads(verdict)["alarm"] for verdict in verdicts(call)] == ["critical"]

                    assert eventually(judged, 60)  # until then, it fails open
            assert eventually(lambda: 'tocsin_ext_proc_exchanges_total{guarded="true"}' in metrics())
            assert eventually(lambda: 'tocsin_ext_proc_exchanges_total{guarded="true"} 0.0' not in metrics())
    finally:
        serving.send_signal(signal.SIGTERM)
        _, log = serving.communicate(timeout=60)
    assert serving.returncode == 0, log.decode()
    assert f"external processor of Envoy on {ports['ext_proc']}" in log.decode()


@pytest.mark.long
def test_a_recording_is_made_behind_envoy(bundle: Path, tmp_path: Path) -> None:
    content = with_bundle(bundle, mode="observe", admin=None, metrics=None, ext_proc=f"127.0.0.1:{free_port()}")
    written = printed(tmp_path, content)
    command_line = ["record", "-c", "tocsin.yaml", "-o", "safe", "--rows", "3", "--stop-when-full"]
    recording = subprocess.Popen(
        [sys.executable, "-m", "tocsin", *command_line], cwd=tmp_path, env=at_once(), stderr=subprocess.PIPE
    )
    try:
        with model_server() as (model, address):
            model.answers = dict(ANSWERS)
            with running_envoy(tmp_path / "envoy", address, written["http_filters"], written["clusters"]) as envoy:
                with grpc.insecure_channel(envoy.target) as channel:

                    def recorded() -> bool:
                        assert channel.unary_unary(INFER)(b"safe", timeout=60) == ANSWERS[b"safe"]
                        return recording.poll() is not None

                    assert eventually(recorded, 60)
    finally:
        recording.terminate()
        _, log = recording.communicate(timeout=60)
    assert recording.returncode == 0 and f"recording: ext_proc on {content['ext_proc']}" in log.decode(), log.decode()
    assert any((tmp_path / "safe").iterdir())
