"""Claims about values of the chart that no pod could start with: Helm refuses them in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
from tests.helm.chart import DIGITS, OWN_PROTOCOL, SMALL, having, rendered

from tocsin.configuration.config import Config
from tocsin.kubernetes.files import WAYS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "model.image.repository"),
        ({"tocsin": {"models": {}}}, "tocsin.models"),
        ({"tocsin": {"mode": "strict", "models": {"digits": DIGITS}}}, "/tocsin/mode"),
        ({"tocsin": {"models": {"digits": {"signals": {"probs": "nowhere"}}}}}, "/tocsin/models/digits/signals/probs"),
        ({"tocsin": {"models": {"digits": {}}}}, "signals"),
    ],
)
def test_values_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError) as caught:
        rendered({**SMALL, **change})
    assert message in str(caught.value)


FILE = {"certificate": "/etc/more/tls.crt", "key": "/etc/more/tls.key"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 8081}, r"tocsin\.port: port 8081 is model\.port as well"),
        ({"metricsPort": 8001}, r"tocsin\.port: port 8001 is tocsin\.metricsPort"),
        ({"port": 9465}, r"tocsin\.port: port 9465 is the relay's admin port"),
        ({"settings": {"admin": "0.0.0.0:8081"}}, r"model\.port: port 8081 is the relay's admin port"),
        ({"settings": {"listeners": [{"listen": "0.0.0.0:9464"}]}}, r"port 9464 is tocsin\.settings\.listeners\.0"),
        ({"settings": {"listen": "0.0.0.0:1"}}, r"tocsin\.settings\.listen: the chart writes it"),
        ({"tls": {"enabled": True}, "settings": {"tls": FILE}}, r"tocsin\.settings\.tls: the chart writes it"),
        ({"settings": {"admin_token": "token"}}, r"tocsin\.settings\.admin_token: nothing is mounted at token"),
        ({"settings": {"admin_tls": FILE}}, r"tocsin\.settings\.admin_tls\.certificate: nothing is mounted"),
        ({"settings": {"events": {"to": [{"file": "/var/a"}]}}}, r"settings\.events\.to\.0\.file: nothing"),
        (
            {"settings": {"protocols": {"own": {"descriptors": "own.binpb", **OWN_PROTOCOL["own"]}}}},
            r"own\.descriptors: nothing",
        ),
        ({"models": {"digits": {**DIGITS, "fallback": {"upstream": "a:1", "tls": {"ca": "a"}}}}}, r"fallback\.tls\.ca"),
        (
            {"native": True, "settings": {"protocols": {"own": {"reflection": True, **OWN_PROTOCOL["own"]}}}},
            r"own\.reflection",
        ),
        ({"readiness": "grpc", "tls": {"enabled": True}}, r"tocsin\.readiness: the kubelet's gRPC probe speaks no TLS"),
        ({"drain": "1m"}, r"terminationGracePeriodSeconds: .* take 65 s together"),
    ],
)
def test_what_a_pod_could_not_start_with_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        rendered(having(SMALL, **change))


def test_settings_may_name_files_that_are_mounted(tmp_path: Path) -> None:
    settings = {
        "admin_tls": FILE,
        "events": {"to": [{"file": "/var/lib/tocsin/alarms.jsonl"}]},
        "limits": {"headers": "32KiB"},
    }
    mounts = [{"name": "more", "mountPath": "/etc/more"}, {"name": "data", "mountPath": "/var/lib/tocsin/"}]
    volumes = [{"name": "more", "secret": {"secretName": "x"}}, {"name": "data", "emptyDir": {}}]
    manifests = rendered({**having(SMALL, settings=settings, volumeMounts=mounts), "volumes": volumes})
    kubernetes_validate.validate(manifests["Deployment"], "1.32", strict=True)
    (tmp_path / "tocsin.yaml").write_text(manifests["ConfigMap"]["data"]["tocsin.yaml"])
    assert Config.load(tmp_path / "tocsin.yaml").admin_tls is not None


def naming(pattern: str, file: str) -> dict[str, Any]:
    """The relay's values, with this file named where one of WAYS says that a setting names one."""
    *places, last = pattern.split(".")
    content: Any = {last: file}
    for at in range(len(places) - 1, -1, -1):
        if places[at] != "*":
            content = {places[at]: content}
        elif places[at - 1] in ("to", "listeners", "judges"):
            content = [{"listen": "0.0.0.0:7001", **content} if places[at - 1] == "listeners" else content]
        else:
            content = {"digits": content}
    if "models" in content:
        return {"models": {"digits": {**DIGITS, **content["models"]["digits"]}}}
    return {"settings": content}


@pytest.mark.parametrize("pattern", [pattern for pattern in WAYS if not pattern.endswith((".bundle", ".shadow"))])
def test_every_setting_that_names_a_file_is_looked_at(pattern: str) -> None:
    place = re.escape(pattern).replace(r"\*", "(digits|0)")
    with pytest.raises(helm.HelmError, match=rf"{place}: nothing is mounted at /nowhere/file"):
        rendered(having(SMALL, **naming(pattern, "/nowhere/file")))
