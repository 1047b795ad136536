"""What the tests of the HTTP relay share: bundles that judge tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.harness.chat import each_token_bundle, tokens_bundle


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens_bundle(tmp_path_factory.mktemp("http_relay") / "tokens.tocsin")


@pytest.fixture(scope="session")
def each(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return each_token_bundle(tmp_path_factory.mktemp("http_relay") / "each.tocsin")
