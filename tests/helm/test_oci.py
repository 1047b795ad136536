"""Claims about the chart as it is published: packaged, pushed and pulled by Helm's engine, through a real registry."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from tests.helm.chart import CHART, MATRIX, rendered
from tests.oci_registry import registry

SCRIPT = CHART.parent / "package.py"


def publish(*arguments: object) -> list[str]:
    """The lines that the script prints."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart's archive, after a stay in a registry, pulled by its digest."""
    folder = tmp_path_factory.mktemp("published")
    with registry(folder) as address:
        packaged, pushed = publish(folder / "chart", f"oci://{address}/charts")
        reference, _, digest = pushed.partition("@")
        assert reference == f"oci://{address}/charts/tocsin:{version('version')}"
        (folder / "pulled").mkdir()
        with helm.RegistryClient(plain_http=True) as client:
            assert client.tags(f"oci://{address}/charts/tocsin") == [version("version")]
            client.pull(f"{reference}@{digest}", destination=folder / "pulled", plain_http=True)
    (archive,) = (folder / "pulled").glob("*.tgz")
    assert packaged.split()[-1] == helm.digest(archive)
    return archive


def version(name: str) -> str:
    return str(yaml.safe_load((CHART / "Chart.yaml").read_text())[name])


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_a_chart_from_a_registry_installs_what_the_folder_does(values: dict[str, Any], pulled: Path) -> None:
    assert rendered(values, pulled) == rendered(values)


def test_the_archive_has_the_schema_and_what_people_read(pulled: Path) -> None:
    with tarfile.open(pulled) as archive:
        names = {member.name for member in archive.getmembers()}
        file = archive.extractfile("tocsin/values.schema.json")
        assert file is not None and json.load(file) == json.loads((CHART / "values.schema.json").read_text())
    assert names >= {"tocsin/README.md", "tocsin/values.yaml", "tocsin/templates/tests/reachable.yaml"}
    with pytest.raises(helm.HelmError, match="autoscalling"):
        rendered({**MATRIX["small"], "autoscalling": {}}, pulled)


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    """Whenever they were checked out: the digest says which chart it is."""
    (first,) = publish(tmp_path / "first")
    os.utime(CHART / "values.yaml")
    (second,) = publish(tmp_path / "second")
    assert first.split()[-1] == second.split()[-1]
    (schema,) = (tmp_path / "first").glob("*.schema.json")
    assert schema.read_bytes() == (CHART / "values.schema.json").read_bytes()


def test_a_chart_with_a_mistake_is_not_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["package"].__globals__, "CHART", tmp_path / "tocsin")
    (tmp_path / "tocsin").mkdir()
    (tmp_path / "tocsin" / "Chart.yaml").write_text("apiVersion: v2\nname: tocsin\nversion: none\n")
    with pytest.raises(SystemExit, match="version"):
        script["package"](tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_artifact_hub_is_told_of_the_images_that_the_chart_installs() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    (image,) = yaml.safe_load(annotations["artifacthub.io/images"])
    relay = next(
        container["image"]
        for container in rendered(MATRIX["small"])["Deployment"]["spec"]["template"]["spec"]["containers"]
        if container["name"] == "tocsin"
    )
    assert image["image"] == relay
    project = (CHART.parents[1] / "pyproject.toml").read_text()
    assert annotations["artifacthub.io/license"] == re.findall(r'^license = "(.*)"', project, re.MULTILINE)[0]
    assert all(isinstance(value, str) for value in annotations.values())  # Helm takes no others
