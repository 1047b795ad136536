"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Several processes share the cores, and threads that wait for one another spin.
os.environ.update({f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")} | dict(os.environ))

from benchmarks.harness.parts import quick_bundle

# A busy machine is no failure, and a run of the suite is repeatable; new cases are looked for by `make fuzz` and by
# `pytest --hypothesis-profile search`.
settings.register_profile("tocsin", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("tocsin")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so it is where a shell runs tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes that tests start are to be interrupted


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle file for the model `digits`."""
    path = tmp_path_factory.mktemp("bundle") / "digits.tocsin"
    quick_bundle(path)
    return path


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """What a test sets of the log, as a command does that runs in this process, ends with the test."""
    loggers = [logging.getLogger(), logging.getLogger("tocsin")]
    before = [(logger.level, logger.disabled, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, disabled, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, handlers


# The files that take longest, of more than ten seconds each, in this order.
LONGEST = (
    "system/test_nothing_sent.py",
    "docs/test_tutorials.py",
    "system/test_robot.py",
    "system/test_demo.py",
    "opinions/test_real_judge.py",  # where the packages of the examples are
    "conformance/test_answers_of_upstreams.py",
    "middleware/state/test_state.py",
    "conformance/test_frames_of_clients.py",
    "middleware/page/test_page.py",
    "middleware/alerting/test_rules.py",
    "system/test_install.py",
    "middleware/workers/test_workers.py",
    "offline/test_offline.py",
    "middleware/cli/test_recording_progress.py",
    "middleware/state/test_fleet.py",
    "middleware/dashboards/test_dashboards.py",
    "relay/test_ports.py",
    "docs/test_site.py",
    "http/test_in_process.py",
    "http/test_matrix.py",
    "middleware/service/test_reload_failures.py",
    "middleware/cli/test_cli_promises.py",
    "middleware/events/test_delivery.py",
    "middleware/service/test_broken_peers.py",
    "middleware/rollouts/test_rollout_gate.py",
    "middleware/telemetry/test_telemetry.py",
    "middleware/service/test_logs.py",
    "online/test_urn.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: to look for garbage in it takes time, then and during tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process of several is left with them at the end."""
    places = {item.path: _place(item.path) for item in items}
    items.sort(key=lambda item: places[item.path])


def _place(path: Path) -> int:
    return next((at for at, name in enumerate(LONGEST) if path.as_posix().endswith(name)), len(LONGEST))
