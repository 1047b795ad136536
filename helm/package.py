"""Package the chart, and push it to a registry of OCI artefacts when one is named, by Helm's own engine.

python helm/package.py build/chart                                   # the archive and the schema of its values
python helm/package.py build/chart oci://registry.example/charts     # pushed, too, as `helm registry login` allows

A registry on this machine is spoken to without TLS. The archive of the same files is the same, byte by byte: its files
are of SOURCE_DATE_EPOCH (seconds, 0 unless set).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import helm_python as helm

CHART = Path(__file__).parent / "tocsin"
# What everybody has to name; with it, Helm's linter looks at every template.
NECESSARY: dict[str, Any] = {
    "model": {"image": {"repository": "registry.example/model"}},
    "tocsin": {"models": {"model": {"signals": {"probs": "response.outputs.probs"}}}},
}


def main(folder: Path, remote: str | None) -> None:
    archive = package(folder)
    print(f"{archive} ({archive.stat().st_size / 1000:.0f} kB) {helm.digest(archive)}")
    if remote is not None:
        print(push(archive, remote))


def package(folder: Path) -> Path:
    """Write the chart's archive, and the schema of its values. Raises SystemExit for what Helm's linter finds."""
    report = helm.lint(str(CHART), NECESSARY, strict=True)
    if report["errors"]:
        raise SystemExit("\n".join(report["errors"]))
    folder.mkdir(parents=True, exist_ok=True)
    moment = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    with TemporaryDirectory() as scratch:
        copy = shutil.copytree(CHART, Path(scratch) / CHART.name)
        for path in copy.rglob("*"):
            os.utime(path, (moment, moment))
        archive = Path(helm.package(str(copy), destination=str(folder)))
    shutil.copyfile(CHART / "values.schema.json", folder / f"{archive.stem}.values.schema.json")
    return archive


def push(archive: Path, remote: str) -> str:
    """Push the archive below `remote` (oci://HOST/PATH). The reference that pins it: oci://HOST/PATH/NAME:VERSION@DIGEST."""
    is_local = urlsplit(remote).hostname in {"localhost", "127.0.0.1", "::1"}
    name, _, version = archive.stem.rpartition("-")
    reference = f"{remote}/{name}:{version}"
    with helm.RegistryClient(plain_http=is_local) as client:
        client.push(archive, remote, plain_http=is_local)
        return f"{reference}@{client.resolve(reference)['digest']}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
