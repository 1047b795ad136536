"""Configurations of Envoy with what `tocsin attach` prints, changed by a test, and a real Envoy that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from benchmarks.harness.chat import CHAT, config
from benchmarks.harness.envoy import bootstrap, started
from benchmarks.harness.openai_server import OpenAIServer, serving
from benchmarks.harness.parts import Running, free_port, running

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.ext_proc.attach import attached
from tocsin.gateways.document import read
from tocsin.gateways.envoy_check import check_envoy
from tocsin.gateways.envoy_config import envoy_config
from tocsin.gateways.findings import EnvoyFault
from tocsin.gateways.needs import Needs
from tocsin.judgement.guard import Guard

BLOCK = {"on_alarm": {"warning": "block"}}
Change = Callable[[Any], None]


def manager(boot: Any) -> Any:
    """The HTTP connection manager."""
    return boot["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def settings(boot: Any) -> Any:
    """The ext_proc filter's settings."""
    return manager(boot)["http_filters"][0]["typed_config"]


def route(boot: Any) -> Any:
    return manager(boot)["route_config"]["virtual_hosts"][0]["routes"][0]


def processor(boot: Any) -> Any:
    """The processor's cluster."""
    return boot["static_resources"]["clusters"][1]


def modes(**more: str) -> Change:
    return lambda boot: settings(boot)["processing_mode"].update(more)


def setting(**more: Any) -> Change:
    return lambda boot: settings(boot).update(more)


def nothing(boot: Any) -> None:
    """No change."""


def attached_bootstrap(config: Config, guard: Guard, upstream: str = "127.0.0.1:1", **more: Any) -> Any:
    """An Envoy's whole configuration with what attach prints."""
    target = config.ext_proc if config.ext_proc is not None else Address("127.0.0.1", 9002)
    parts = attached(config, guard, target)
    boot = bootstrap(free_port(), free_port(), upstream, parts["http_filters"], parts["clusters"], **more)
    boot["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = int(config.max_message)
    return boot


def checked(boot: Any, config: Config, guard: Guard) -> list[EnvoyFault]:
    """What the check finds in a configuration, as YAML."""
    text = yaml.safe_dump(boot, sort_keys=False)
    return check_envoy(envoy_config(read(text, "envoy.yaml"), "envoy.yaml"), Needs.of(config, guard), "tocsin")


@contextmanager
def judged_by(bundle: Path, mode: str, **more: Any) -> Iterator[tuple[Config, Guard, str, Running]]:
    """A processor behind its port, and the model server that Envoy stands before."""
    guard = Guard.open(config(bundle, mode, **more))
    ports = {"ext_proc": Address("127.0.0.1", free_port()), "metrics": Address("127.0.0.1", 0), "admin": None}
    budget = {"scoring_budget": timedelta(seconds=60), "max_message": 1 << 20}
    served = guard.config.model_copy(update={**ports, **budget})
    guard = Guard.open(served)
    with serving(OpenAIServer().app()) as url, running(served, guard) as sidecar:
        yield served, guard, url.removeprefix("http://"), sidecar


@contextmanager
def envoy(boot: Any, folder: Path) -> Iterator[str]:
    with started(folder, boot) as target:
        yield f"http://{target}"


def ask(url: str, prompt: str, path: str = CHAT, *, streams: bool = False) -> httpx.Response:
    """An answer to a prompt, or the 599 that stands for a connection that was cut."""
    body = {"model": "m", "logprobs": True, "stream": streams, "messages": [{"role": "user", "content": prompt}]}
    try:
        return httpx.post(url + path, json=body, timeout=60, verify=False)
    except httpx.TransportError:
        return httpx.Response(599)
