"""Claims about `tocsin config check`: it refuses what `serve` would, all of it at once, and looks at paths without a
bundle too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.harness.certificates import Authority
from benchmarks.harness.parts import SIGNALS
from typer.testing import CliRunner

from tocsin.checking import problems_of
from tocsin.cli.main import app
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.protocols.protocol import preset


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def written(folder: Path, **more: Any) -> Path:
    path = folder / "tocsin.yaml"
    path.write_text(yaml.safe_dump({"models": {"digits": {"signals": SIGNALS}}, **more}))
    return path


def checked(path: Path, command: str = "config check") -> str:
    """The error of `config check` (or of `serve`); empty where it accepts the file."""
    result = CliRunner().invoke(app, [*command.split(), str(path)])
    return str(result.exception) if result.exit_code else ""


MISSING = {"certificate": "none.pem", "key": "none.key"}
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"tls": MISSING}, r"^tls: a certificate cannot be used.*none\.pem"),
    ({"upstream_tls": {"ca": "none.pem"}}, r"^upstream_tls: a certificate cannot be used"),
    ({"listeners": [{"listen": "127.0.0.1:7", "tls": MISSING}]}, r"^tls: a certificate cannot be used"),
    ({"admin_tls": MISSING}, r"^admin_tls: a certificate cannot be used"),
    ({"admin": "0.0.0.0:9465"}, r"^admin: 0\.0\.0\.0:9465 can be reached from elsewhere"),
    ({"admin_token": "none"}, r"^admin_token: .*none: cannot be read"),
    ({"admin_token": "empty"}, r"^admin_token: .*empty is empty"),
    ({"metrics": "unix:/nowhere/m.sock"}, r"^metrics: there is no folder /nowhere"),
    ({"listen": "unix:/nowhere/m.sock"}, r"^listen: there is no folder /nowhere"),
    ({"events": {"to": [{"webhook": "http://a:1", "secret": "none"}], "spool": "s"}}, r"^events: .*none: the secret"),
    ({"events": {"to": [{"webhook": "http://a:1", "secret": "odd"}], "spool": "s"}}, r"^events: .*must hold whsec"),
    ({"events": {"to": [{"kafka": "a:1", "settings": "none"}], "spool": "s"}}, r"^events: .*none: cannot be read"),
    ({"events": {"to": [{"kafka": "a:1", "settings": "odd"}], "spool": "s"}}, r"^events: .*odd: No such config"),
    ({"events": {"to": [{"file": "odd/alarms.jsonl"}]}}, r"^events\.to\.file: .*odd is no folder"),
    ({"events": {"to": [{"webhook": "http://127.0.0.1:1"}], "spool": "odd/s"}}, r"^events\.spool: .*odd is no folder"),
    ({"opentelemetry": {"headers": "none"}}, r"^opentelemetry: .*none: cannot be read"),
    ({"opentelemetry": {"ca": "none", "endpoint": "https://127.0.0.1:1"}}, r"^opentelemetry: .*none: cannot be read"),
    ({"opentelemetry": {"ca": "none", "endpoint": "https://a:1", "protocol": "http"}}, r"^opentelemetry: .*none"),
    ({"state": {"redis": "redis://127.0.0.1:1", "password": "none"}}, r"^state: .*none: cannot be read"),
    ({"workers": 2, "listen": "unix:/tmp/x.sock"}, r"^workers: unix:/tmp/x\.sock cannot be shared"),
    (
        {"models": {"digits": {"signals": SIGNALS, "fallback": {"upstream": "a:1", "tls": {"ca": "none"}}}}},
        r"^models\.digits\.fallback\.tls: a certificate cannot be used",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("more", "message"), BROKEN, ids=lambda value: str(value)[:60])
def test_what_serve_would_refuse_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_text("what=is this?\n")
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(checked(written(tmp_path, **more)))


@pytest.mark.parametrize("setting", ["tls", "admin_tls"])
def test_a_key_of_another_certificate_is_refused(tmp_path: Path, authority: Authority, setting: str) -> None:
    pair_of_first, pair_of_second = authority.sign("one"), authority.sign("other")
    pair = {"certificate": str(pair_of_first[0]), "key": str(pair_of_second[1])}
    assert f"{setting}: a certificate cannot be used" in checked(written(tmp_path, **{setting: pair}))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    assert "events.to.file: " in checked(written(tmp_path, events={"to": [{"file": "alarms.jsonl"}]}))


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_made(tmp_path: Path) -> None:
    more = {"tls": MISSING, "admin_token": "none", "events": {"to": [{"file": "new/alarms.jsonl"}]}}
    problems, guard = problems_of(Config.load(written(tmp_path, **more)))
    assert len(problems) == 2 and guard is not None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tocsin.yaml"]


def test_what_can_be_served_passes(tmp_path: Path, bundle: Path, authority: Authority) -> None:
    pair = authority.sign("relay")
    tls = {"certificate": str(pair[0]), "key": str(pair[1])}
    events = {"to": [{"file": "new/alarms.jsonl"}, {"webhook": "http://127.0.0.1:1/"}], "spool": "spool"}
    path = written(
        tmp_path, tls=tls, admin_tls=tls, events=events, models={"digits": {"signals": SIGNALS, "bundle": str(bundle)}},
        opentelemetry={"metrics": "60s"},
    )  # fmt: skip
    assert checked(path) == ""


# -- paths


def with_paths(folder: Path, signal: str, **ask: Any) -> Path:
    """Write a configuration with a protocol of its own that copies vLLM's preset."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    described = preset("vllm")["/vllm.grpc.engine.VllmEngine/Generate"]._request.DESCRIPTOR.file  # type: ignore[attr-defined]
    files = FileDescriptorSet()
    for file in (*described.dependencies, described):
        file.CopyToProto(files.file.add())
    (folder / "engine.binpb").write_bytes(files.SerializeToString())
    method: dict[str, Any] = {"judge": "end"}
    if ask:
        method["ask"] = {"unless": "sampling_params.logprobs", "set": {"sampling_params.logprobs": "amount"},
                         "strip": ["chunk.output_logprobs"], **ask}  # fmt: skip
    protocol = {"descriptors": "engine.binpb", "methods": {"/vllm.grpc.engine.VllmEngine/Generate": method}}
    model = {"protocol": "own", "signals": {"token_ids": signal}, "ask": 5 if ask else False, "bundle": "none.tocsin"}
    return written(folder, protocols={"own": protocol}, models={"m": model})


def test_paths_are_followed_before_there_is_a_bundle(tmp_path: Path) -> None:
    message = checked(with_paths(tmp_path, "response.chunk.token_idz"))
    assert "none.tocsin: there is no such file" in message and "has no field 'token_idz'" in message
    message = checked(with_paths(tmp_path, "response.chunk.token_ids"))
    assert message.splitlines() == [message] and "none.tocsin: there is no such file" in message


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"unless": "sampling_params.logprob"}, r"ask\.unless: .*has no field 'logprob'"),
        ({"set": {"sampling_param.logprobs": "amount"}}, r"ask\.set: .*has no field 'sampling_param'"),
        ({"strip": ["chunk.output_logprob"]}, r"ask\.strip: .*has no field 'output_logprob'"),
        ({"set": {"request_id": "amount"}}, r"ask\.set: 'request_id' cannot be 1"),
    ],
)
def test_a_misspelt_path_in_what_is_asked_for_is_an_error(tmp_path: Path, ask: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"protocols\.own: /vllm\.grpc\.engine\.VllmEngine/Generate: " + message):
        raise ConfigError(checked(with_paths(tmp_path, "response.chunk.token_ids", **ask)))
