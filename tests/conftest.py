"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.parts import quick_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle file for the model `digits`."""
    path = tmp_path_factory.mktemp("bundle") / "digits.tocsin"
    quick_bundle(path)
    return path
