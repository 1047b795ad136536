"""Certificates for the tests of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.harness.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    from benchmarks.harness.certificates import Authority  # tests of the base dependencies read this file, too

    return Authority(tmp_path_factory.mktemp("ca"))
