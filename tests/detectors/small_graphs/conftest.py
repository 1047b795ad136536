"""The compiled module, built for these tests where Tocsin runs from its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.native_module import native_module


@pytest.fixture(scope="session", autouse=True)
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`_steps`, skipped where it can neither be imported nor built."""
    with native_module("tocsin_detectors.small_graphs._steps", tmp_path_factory.mktemp("steps")) as module:
        yield module
