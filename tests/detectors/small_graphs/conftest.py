"""The compiled module, built for these tests where Tocsin runs from its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.native_module import built_module, native_module

STEPS = "tocsin_detectors.small_graphs._steps"


@pytest.fixture(scope="session", autouse=True)
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`_steps`, skipped where it can neither be imported nor built."""
    with native_module(STEPS, tmp_path_factory.mktemp("steps")) as module:
        yield module


@pytest.fixture(scope="session", params=["", "-DTOCSIN_WITHOUT_AVX512"], ids=["as it is", "without AVX-512"])
def any_steps(request: pytest.FixtureRequest, steps: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`_steps` as it is here, and as it is where the processor has shorter vectors."""
    return built_module(STEPS, tmp_path_factory.mktemp("steps"), request.param) if request.param else steps
