"""Claims about reloads that fail, whatever the reason: counted, told, nothing changed, and nobody waits for them."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    TRIES_AGAIN_SOON,
    Running,
    at_once,
    far_away,
    free_port,
    inference,
    quick_bundle,
    running,
)
from onnx import TensorProto, helper
from typer.testing import CliRunner

from tocsin import reloading
from tocsin.cli.main import app
from tocsin.configuration.config import Config
from tocsin.errors import ReloadError
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import guarded_models
from tocsin_calibration import Bundle
from tocsin_calibration import bundle as bundles
from tocsin_detectors import Scorer, scorer


def _loop(rest: list[Any], *, shape: list[Any]) -> bytes:
    """A graph of the signals of the tests' bundles whose scores come out of a Loop without an end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Add", ["x", "one"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    nodes = [
        helper.make_node("Slice", ["embedding", "from", "to", "axis"], ["two"]),
        *(rest or [helper.make_node("Loop", ["", "true", "two"], ["tocsin.scores"], body=body)]),
        helper.make_node("Identity", ["probs"], ["unused"]),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in
         (("probs", 10), ("embedding", 8))],
        [helper.make_tensor_value_info("tocsin.scores", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("from", TensorProto.INT64, [1], [0]),
            helper.make_tensor("to", TensorProto.INT64, [1], [2]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "detectors", "entropy,mahalanobis"
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def endless() -> bytes:
    return _loop([], shape=["n", 2])


def failing() -> bytes:
    """A graph that loads, and cannot be run for more than one response."""
    return _loop([helper.make_node("Reshape", ["two", "to"], ["flat"]),
                  helper.make_node("Unsqueeze", ["flat", "from"], ["tocsin.scores"])], shape=["n", 2])  # fmt: skip


def with_graph(path: Path, graph: bytes) -> Path:
    """A bundle with the promise of the tests' own, and another graph."""
    had = quick_bundle(path)
    Bundle(Scorer(graph), had.promise, had.model, had.detectors, had.provenance).write(path)
    return path


def with_manifest(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The tests' bundle with another manifest, whose digest is right."""
    quick_bundle(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    del manifest["digest"]
    change(manifest)
    members["manifest.json"] = json.dumps({"digest": bundles._digest(manifest), **manifest}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def content(address: str, bundle: Path, **more: Any) -> dict[str, Any]:
    return {
        "listen": f"127.0.0.1:{free_port()}", "upstream": address, "mode": "annotate", "metrics": "127.0.0.1:0",
        "admin": None, "scoring_budget": "60s",
        "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}}, **more,
    }  # fmt: skip


def counts(relay: Running) -> tuple[str, str]:
    lines = dict(line.rsplit(" ", 1) for line in relay.metrics.splitlines() if line.startswith("tocsin_reloads_total"))
    done, failed = (lines[f'tocsin_reloads_total{{outcome="{outcome}"}}'] for outcome in ("done", "failed"))
    return done, failed


# -- every way to fail


@pytest.mark.parametrize(
    ("raises", "message"),
    [
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (RuntimeError("[ONNXRuntimeError] : 6"), "RuntimeError: [ONNXRuntimeError] : 6"),
        (AssertionError(), "AssertionError"),
    ],
)
@pytest.mark.parametrize("where", ["reading", "following"])
def test_whatever_is_raised_is_counted_told_and_changes_nothing(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    raises: Exception,
    message: str,
    where: str,
) -> None:
    path = tmp_path / "t.yaml"
    with model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        base = content(address, bundle)
        path.write_text(yaml.safe_dump(base))
        config = Config.load(path)
        with running(config, Guard.open(config), path=path) as relay:
            before, reloader = relay.sidecar.relay.context.guard.models, relay.sidecar.reloader
            path.write_text(yaml.safe_dump({**base, "mode": "enforce"}))
            with monkeypatch.context() as broken, caplog.at_level(logging.ERROR, "tocsin"):

                def fail(*_: Any, **__: Any) -> None:
                    broken.undo()  # once: what was there before is taken up again
                    raise raises

                if where == "reading":
                    broken.setattr(reloading, "guarded_models", fail)
                else:
                    broken.setattr(relay.sidecar.relay.context, "follow", fail)
                with pytest.raises(ReloadError) as caught:
                    relay.call(reloader.reload())
            assert str(caught.value) == message and f"stays in force: {message}" in caplog.text
            assert counts(relay) == ("0.0", "1.0")
            assert (
                relay.sidecar.relay.context.config.mode == relay.sidecar.relay.context.guard.config.mode == "annotate"
            )
            assert relay.sidecar.relay.context.guard.models == before
            assert "mode enforce" in relay.call(reloader.reload())
            assert counts(relay) == ("1.0", "1.0")


@pytest.mark.parametrize("graph", [endless, failing])
def test_a_graph_that_does_not_end_or_run_fails_the_reload_and_not_the_next(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(scorer, "TRIAL", 1.0)
    path, broken = tmp_path / "t.yaml", with_graph(tmp_path / "broken.tocsin", graph())
    base = content("127.0.0.1:1", bundle)
    path.write_text(yaml.safe_dump(base))
    config = Config.load(path)
    with running(config, Guard.open(config), path=path) as relay:
        path.write_text(yaml.safe_dump(content("127.0.0.1:1", broken) | {"listen": base["listen"]}))
        message = r"broken\.tocsin: the graph (did not come to an end within 1 s|cannot be run|gives scores of shape)"
        with pytest.raises(ReloadError, match=message):
            relay.call(relay.sidecar.reloader.reload())
        path.write_text(yaml.safe_dump({**base, "mode": "observe"}))
        assert "mode observe" in relay.call(relay.sidecar.reloader.reload())
        assert counts(relay) == ("1.0", "1.0")


def test_what_cannot_be_interrupted_is_left_to_itself(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "RELOAD_TIMEOUT", 0.3)
    path = tmp_path / "t.yaml"
    base = content("127.0.0.1:1", bundle)
    path.write_text(yaml.safe_dump(base))
    config = Config.load(path)
    with running(config, Guard.open(config), path=path) as relay:
        with monkeypatch.context() as stuck:
            stuck.setattr(reloading, "guarded_models", lambda *_: time.sleep(20))
            with pytest.raises(ReloadError, match=r"could not be read within 0\.3 s"):
                relay.call(relay.sidecar.reloader.reload())
        monkeypatch.setattr(reloading, "RELOAD_TIMEOUT", 60.0)
        assert relay.call(relay.sidecar.reloader.reload()) == "nothing has changed"


def test_a_reload_goes_on_where_who_asked_has_gone(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(content("127.0.0.1:1", bundle)))
    config = Config.load(path)
    read = guarded_models

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        return read(*arguments)

    monkeypatch.setattr(reloading, "guarded_models", slowly)
    with running(config, Guard.open(config), path=path) as relay:

        async def impatient() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(relay.sidecar.reloader.reload(), 0.05)

        relay.call(impatient())
        until(lambda: counts(relay) == ("1.0", "0.0"))


# -- processes


@pytest.mark.parametrize("workers", [1, 2])
def test_an_endless_graph_holds_up_neither_the_end_of_the_process_nor_calls(
    bundle: Path, tmp_path: Path, workers: int
) -> None:
    path, broken = tmp_path / "t.yaml", with_graph(tmp_path / "broken.tocsin", endless())
    with model_server() as (model, address):
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        base = content(address, bundle, metrics=None, workers=workers, drain="1s")
        path.write_text(yaml.safe_dump(base))
        process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(path)], env=at_once())
        try:
            with grpc.insecure_channel(base["listen"], TRIES_AGAIN_SOON) as channel:
                call = channel.unary_unary(INFER)
                call(b"far", wait_for_ready=True, timeout=120)
                base["models"]["digits"]["bundle"] = str(broken)
                path.write_text(yaml.safe_dump(base))
                process.send_signal(signal.SIGHUP)
                time.sleep(1.0)  # it is reading, and will be for twenty seconds
                call(b"far", timeout=60)
            process.terminate()
            assert process.wait(scorer.TRIAL - 5) == 0
        finally:
            process.kill()


# -- the command line


@pytest.mark.parametrize("command", ["bundle show", "bundle verify", "bundle time"])
@pytest.mark.parametrize("graph", [endless, failing])
def test_commands_name_the_bundle_whose_graph_cannot_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, graph: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(scorer, "TRIAL", 0.5)
    path = with_graph(tmp_path / "broken.tocsin", graph())
    done = CliRunner().invoke(app, [*command.split(), str(path)])
    assert done.exit_code != 0
    assert str(done.exception).startswith(f"{path}: the graph ")


def nested(manifest: dict[str, Any]) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    manifest["made"] = {"fitted": deep}


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(calibration={}),
        lambda manifest: manifest.update(detectors=[1]),
        lambda manifest: manifest.update(made={"fitted": 1}),
        lambda manifest: manifest["calibration"].update(rule=1e400),
        nested,
    ],
)
def test_a_manifest_of_another_shape_is_told_as_such(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = with_manifest(tmp_path / "odd.tocsin", change)
    done = CliRunner().invoke(app, ["bundle", "show", str(path)])
    assert done.exit_code != 0 and str(done.exception).startswith(f"{path}: ")


def test_a_manifest_that_is_nested_without_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "deep.tocsin"
    quick_bundle(path)
    with zipfile.ZipFile(path) as archive:
        graph = archive.read("scorer.onnx")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scorer.onnx", graph)
        archive.writestr("manifest.json", "[" * 100_000)
    done = CliRunner().invoke(app, ["bundle", "show", str(path)])
    assert str(done.exception) == f"{path}: is nested too deeply to be a bundle"
