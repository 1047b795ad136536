"""Claims about examples in docstrings: every public function has one, and what it shows is what happens."""

from __future__ import annotations

import doctest
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import yaml
from benchmarks.harness.parts import SIGNALS

import tocsin
import tocsin.testing
import tocsin_calibration
import tocsin_detectors

PACKAGES = (tocsin, tocsin.testing, tocsin_calibration, tocsin_detectors)
FINDER = doctest.DocTestFinder(recurse=False)


def public() -> Iterator[tuple[str, object, ModuleType]]:
    """Every public function and class, by its public name, and the module that defines it."""
    for package in PACKAGES:
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{package.__name__}.{name}", value, sys.modules[value.__module__]


PUBLIC = {name: (value, module) for name, value, module in public()}


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where examples run: with the configuration that they speak of."""
    path = tmp_path_factory.mktemp("examples")
    model = {"bundle": str(bundle), "signals": SIGNALS}
    for name, protocol in (("tocsin.yaml", "oip"), ("http.yaml", "oip_http")):
        content = {"mode": "annotate", "models": {"digits": {**model, "protocol": protocol}}}
        (path / name).write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_show_what_happens(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, module = PUBLIC[name]
    monkeypatch.chdir(folder)
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for example in FINDER.find(value, name, module):
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", [name for name, (value, _) in PUBLIC.items() if isinstance(value, FunctionType)])
def test_every_public_function_has_an_example(name: str) -> None:
    assert ">>>" in (PUBLIC[name][0].__doc__ or "")
