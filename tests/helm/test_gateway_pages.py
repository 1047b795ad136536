"""Claim: what the tutorials of gateways install is what the policies that they print point at."""

from __future__ import annotations

from pathlib import Path

import helm_python as helm
import pytest
import yaml
from tests.docs.terminal import blocks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["envoy_gateway", "istio"])
def test_the_values_of_a_page_make_the_service_that_its_policy_names(page: str) -> None:
    shown = {block.file: yaml.safe_load_all(block.text) for block in blocks(ROOT / "docs" / f"{page}.md") if block.file}
    (values,), (settings,) = shown["values.yaml"], shown["tocsin.yaml"]
    files = helm.Chart.load(str(ROOT / "helm" / "tocsin")).render(values, name="tocsin", namespace="models")
    documents = [document for text in files.values() for document in yaml.safe_load_all(str(text))]
    manifests = {document["kind"]: document for document in documents if document and "kind" in document}
    service, deployment = manifests["Service"], manifests["Deployment"]
    port = int(settings["ext_proc"].rpartition(":")[2])
    assert (service["metadata"]["name"], [entry["port"] for entry in service["spec"]["ports"]]) == ("tocsin", [port])
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["tocsin-bundles"]["configMap"] == {"name": "tocsin-bundles"}  # which the page creates
    (config,) = manifests["ConfigMap"]["data"].values()
    served = yaml.safe_load(config)
    for settings_of_model in served["models"].values():
        settings_of_model["bundle"] = Path(settings_of_model["bundle"]).name
    assert {key: served[key] for key in settings} == settings
