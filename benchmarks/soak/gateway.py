"""Envoys that ask the relays' processes, their external processors, about every answer over HTTP."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.harness.envoy import bootstrap, started
from benchmarks.harness.parts import free_port
from tocsin.configuration.config import Config
from tocsin.ext_proc.attach import attached
from tocsin.judgement.guard import Guard


def gateway(folder: Path, mode: str, upstream: str) -> AbstractContextManager[str]:
    """An Envoy before `upstream`, with the filter that `tocsin attach` prints for a mode's configuration. A context,
    whose value is where it listens.
    """
    config = Config.load(folder / f"{mode}.yaml")
    assert config.ext_proc is not None
    parts = attached(config, Guard.open(config), config.ext_proc)
    content = bootstrap(free_port(), free_port(), upstream, parts["http_filters"], parts["clusters"], codec="HTTP1")
    return started(folder / f"envoy-{mode}", content)
