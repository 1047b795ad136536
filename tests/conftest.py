"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

from tests.parts import quick_bundle

settings.register_profile("tocsin", deadline=None)  # a busy machine is no failure
settings.load_profile("tocsin")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle file for the model `digits`."""
    path = tmp_path_factory.mktemp("bundle") / "digits.tocsin"
    quick_bundle(path)
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process of several is left with them at the end."""
    items.sort(key=lambda item: "system" not in item.path.parts and item.path.stem != "test_tutorials")
