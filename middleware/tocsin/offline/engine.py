"""Where work over many files runs: in this process, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tocsin.errors import ConfigError

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")
HERE, RAY = "here", "ray"
TASKS_PER_PROCESSOR = 4  # tasks under way for each processor: what comes later is not read before
STARTS = 3  # attempts to start Ray here: it gives its processes 30 seconds, too few where a machine is busy
log = logging.getLogger("tocsin")


class Engine(ABC):
    """Runs functions of modules on items. Arguments and results may travel to other machines."""

    @abstractmethod
    def map(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Result]:
        """`function(shared, item)` for each item, in order."""


class Here(Engine):
    """Runs one item after the other in this process."""

    def map(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Result]:
        return (function(shared, item) for item in items)


class OnRay(Engine):
    """Runs one task for each item on a Ray cluster. Another worker repeats the tasks of one that died.

    `address` is a cluster's, such as ray://host:10001. Without one, the cluster in RAY_ADDRESS is used, or as many
    processes on this machine as it has processors. Tasks read files by the same paths as this process. Raises
    ConfigError when Ray is not installed, the cluster cannot be reached, or Ray does not start here.
    """

    def __init__(self, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tell nobody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise ConfigError("working on a cluster needs Ray: pip install 'tocsin[ray]'") from None
        self._ray: Any = ray
        address = address or os.environ.get("RAY_ADDRESS")
        started = 0
        while not ray.is_initialized():
            started += 1
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            except Exception as error:  # its processes' late start has no type of its own
                if address:
                    raise ConfigError(f"no Ray cluster at {address}: {error}") from error
                if started == STARTS:
                    raise ConfigError(f"Ray does not start on this machine, tried {STARTS} times: {error}") from error
                log.warning("Ray did not start on this machine, trying again: %s", error)

    def map(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Result]:
        ray = self._ray
        task, everywhere = ray.remote(function), ray.put(shared)
        ahead = TASKS_PER_PROCESSOR * max(1, int(ray.cluster_resources().get("CPU", 1)))
        under_way: deque[Any] = deque()
        for item in items:
            if len(under_way) >= ahead:
                yield self._result(under_way.popleft())
            under_way.append(task.remote(everywhere, item))
        while under_way:
            yield self._result(under_way.popleft())

    def _result(self, task: Any) -> Any:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # what the function itself raised


def engine_of(name: str) -> Engine:
    """The engine for `here`, `ray`, or a Ray cluster's address. Raises ConfigError on anything else."""
    if name == HERE:
        return Here()
    if name == RAY:
        return OnRay()
    if name.startswith("ray://") or ":" in name:
        return OnRay(name)
    raise ConfigError(f"--on is here, ray, or a Ray cluster's address such as ray://host:10001, not '{name}'")
