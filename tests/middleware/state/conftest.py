"""A Redis for the tests of a file, empty before each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from benchmarks.harness.redis_server import RedisServer, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as process:
        yield process


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        redis.Redis.from_url(request.getfixturevalue("server").url).flushall()
