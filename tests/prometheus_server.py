"""A real Prometheus on loopback that holds series written beforehand, each sample at its moment."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tocsin.demo.model_server import free_ports

PATIENCE = 120.0
Samples = Sequence[tuple[float, float]]  # (Unix seconds, value)


@contextmanager
def prometheus_with(folder: Path, series: Mapping[str, Samples]) -> Iterator[str]:
    """Its address, until the end of the block. Series are named as in PromQL, counters with their `_total`."""
    for program in ("prometheus", "promtool"):
        assert shutil.which(program), f"{program} is missing: apt-get install prometheus"
    written = folder / "series.om"
    with written.open("w") as file:
        families: dict[str, list[str]] = {}
        for name, samples in series.items():
            lines = families.setdefault(name.partition("{")[0].removesuffix("_total"), [])
            lines += [f"{name} {value:.17g} {at:.3f}\n" for at, value in samples]
        for family, lines in families.items():
            counts = any(line.startswith(f"{family}_total") for line in lines)
            file.write(f"# TYPE {family} {'counter' if counts else 'gauge'}\n")
            file.writelines(lines)
        file.write("# EOF\n")
    data = folder / "data"
    done = subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", written, data],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "prometheus.yml").write_text("{}\n")
    (port,) = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={data}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _until_ready(address, process, folder)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE)


def value_of(address: str, promql: str, at: float) -> list[dict[str, Any]]:
    """The result of an instant query."""
    query = urllib.parse.urlencode({"query": promql, "time": at})
    with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=PATIENCE) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


def _until_ready(address: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"{address}/-/ready", timeout=60) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("Prometheus does not become ready")
