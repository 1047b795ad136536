"""Claims about `tocsin inject` and files: each that a setting names has a way into the pod, or is refused in words."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tests.middleware.kubernetes.injection import (
    CONFIG,
    DEPLOYMENT,
    FILES,
    SERVICE,
    documents,
    fits,
    manifests,
    pod,
    refused,
    run,
)
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.kubernetes.files import WAYS, setting_holders

FALLBACK = {"upstream": "fallback:9000", "tls": {"ca": "fallback.pem", "certificate": "f.crt", "key": "f.key"}}


def with_files() -> dict[str, Any]:
    model = {**CONFIG["models"]["digits"], "fallback": FALLBACK}
    listener = {
        "listen": "127.0.0.1:8002",
        "upstream": "127.0.0.1:9001",
        "tls": {"certificate": "l.crt", "key": "l.key"},
    }
    return {**CONFIG, **FILES, "models": {"digits": model}, "listeners": [listener]}


def test_every_setting_that_names_a_file_has_a_way_into_the_pod() -> None:
    def paths(model: type[BaseModel], where: str, parents: tuple[Any, ...]) -> set[str]:
        settings_of_paths = set()
        for name, field in model.model_fields.items():
            for kind in flat(field.annotation):
                more = "*." if is_of_many(field.annotation) else ""
                if kind is Path or name == "descriptors":
                    settings_of_paths.add(f"{where}{name}")
                elif isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in parents:
                    settings_of_paths |= paths(kind, f"{where}{name}.{more}", (*parents, kind))
        return settings_of_paths

    def flat(annotation: Any) -> set[Any]:
        inside = getattr(annotation, "__args__", ())
        return {annotation}.union(*(flat(part) for part in inside)) if inside else {annotation}

    def is_of_many(annotation: Any) -> bool:
        return getattr(annotation, "__origin__", None) in (dict, list)

    assert paths(Config, "", ()) == set(WAYS)


def test_files_come_into_the_pod_or_it_is_told_how(tmp_path: Path) -> None:
    message = refused(tmp_path, manifests(DEPLOYMENT), "--plain", config=with_files())
    assert "protocols.own.descriptors" in message and "own.binpb cannot be read" in message
    assert "kubectl create secret generic tocsin" in message and "--from-file=tls.key=tls/tls.key" in message
    (tmp_path / "own.binpb").write_bytes(b"\x0a\x00descriptors")
    options = ("--secret", "digits-files", "--secret", "digits-tls")
    done = run(tmp_path, manifests(DEPLOYMENT, SERVICE), *options, config=with_files())
    injected = documents(done.stdout)
    fits(injected)
    (sidecar,) = pod(injected)["initContainers"]
    mounts = {mount["name"]: mount for mount in sidecar["volumeMounts"]}
    assert {mount["mountPath"] for mount in mounts.values()} == {
        "/etc/tocsin", "/bundles", "/etc/tocsin-secrets", "/var/lib/tocsin",
    }  # fmt: skip
    assert "readOnly" not in mounts["tocsin-data"]
    volumes = {volume["name"]: volume for volume in pod(injected)["volumes"]}
    sources = volumes["tocsin-secrets"]["projected"]["sources"]
    assert [source["secret"]["name"] for source in sources] == ["digits-files", "digits-tls"]
    assert volumes["tocsin-data"]["emptyDir"] == {}
    carried = injected["ConfigMap/digits-tocsin"]["binaryData"]
    assert base64.b64decode(carried["own.binpb"]) == (tmp_path / "own.binpb").read_bytes()

    (tmp_path / "etc").mkdir()
    inside = tmp_path / "etc" / "tocsin.yaml"
    inside.write_text(injected["ConfigMap/digits-tocsin"]["data"]["tocsin.yaml"])
    config = Config.load(inside)
    assert config.protocols["own"].descriptors == str(tmp_path / "etc" / "own.binpb")  # beside it, as ConfigMaps are
    assert config.tls is not None and str(config.tls.key) == "/etc/tocsin-secrets/tls.key"
    assert config.listeners[0].tls is not None and str(config.listeners[0].tls.key) == "/etc/tocsin-secrets/l.key"
    assert config.events is not None and str(config.events.spool) == "/var/lib/tocsin/spool"
    assert str(config.models["digits"].fallback.tls.ca) == "/etc/tocsin-secrets/fallback.pem"  # type: ignore[union-attr]
    for pattern in WAYS:
        for holder, key, where in setting_holders(yaml.safe_load(inside.read_text()), pattern.split(".")):
            assert holder[key].startswith(("/bundles/", "/etc/tocsin-secrets/", "/var/lib/tocsin/", "own.binpb")), where
    again = run(tmp_path, done.stdout, *options, config=with_files())
    assert documents(again.stdout) == injected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"listen": "0.0.0.0:9000"}, "9000"),
        ({"metrics": "0.0.0.0:8080"}, "metrics: port 8080 is taken in Deployment digits, by its container other"),
        ({"admin": "127.0.0.1:8080"}, "admin: port 8080 is taken"),
        ({"listen": "0.0.0.0:8080"}, "listen: port 8080 is taken"),
        ({"upstream": "digits.models:9000"}, "is not inside the pod"),
        ({"upstream": "unix:/run/model.sock"}, "inside a pod both are HOST:PORT"),
        ({"state": {"redis": "unix:///run/redis.sock"}}, "state.redis"),
        ({"admin_token": "tls/token", "opentelemetry": {"headers": "otlp/token"}}, "as another file is: rename one"),
        ({"admin_token": "a token"}, "'a token' cannot be a key"),
        (
            {"protocols": {"own": {"reflection": True, "methods": {"/a.B/C": {}}}}},
            "protocols.own.reflection: a native sidecar starts before the model server",
        ),
    ],
)
def test_what_a_pod_could_not_start_with_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    deployment = copy.deepcopy(DEPLOYMENT)
    deployment["spec"]["template"]["spec"]["containers"][1]["ports"] = [{"containerPort": 8080}]
    options = ("--secret", "files")
    assert message in refused(tmp_path, manifests(deployment), *options, config={**CONFIG, **change})


def test_bundles_need_a_source_and_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump(CONFIG))
    words = ["inject", "-", "-c", str(tmp_path / "tocsin.yaml")]
    done = CliRunner().invoke(app, words, input=manifests(DEPLOYMENT))
    message = str(done.exception)
    assert isinstance(done.exception, ConfigError) and not done.stdout
    assert "models.digits.bundle" in message and "--from-file=made/digits.tocsin" in message and "--bundles" in message
    alike = {**CONFIG["models"]["digits"], "shadow": "next/digits.tocsin"}
    message = refused(tmp_path, manifests(DEPLOYMENT), config={**CONFIG, "models": {"digits": alike}})
    assert "models.digits.shadow" in message and "/bundles/digits.tocsin" in message
