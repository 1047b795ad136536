"""One world for all scenarios."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.interop.world import World


@pytest.fixture(scope="session")
def world(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    opened = World(tmp_path_factory.mktemp("interop"), bundle)
    try:
        yield opened
    finally:
        opened.close()
