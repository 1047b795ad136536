"""A language model behind OpenAI's HTTP API, guarded where its callers come in: by Envoy, by a relay, by the caller.

    make demo-openai

A real Envoy stands before the model and asks Tocsin, its external processor, about every answer; then the same client
goes through Tocsin's own relay of HTTP; then it asks the model itself, with a guarded transport in its own process.
Tokens are judged in a window of their stream, and a stream is stopped at the token that makes it stranger than all but
two of a hundred safe ones.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import yaml
from answers import ALTERNATIVES, NAME
from steps import ask_all, ask_safe, draw_worst, files, learn, show

sys.path.append(str(Path(__file__).parents[1]))
from running import fetched, process, run, say, tocsin

import tocsin as guards

MODEL, ENVOY, PROCESSOR, METRICS, RELAY = range(19470, 19475)  # ports
HERE = Path(__file__).parent
PATIENCE = 600  # seconds that an answer may take, where the machine has other work, too
COUNTED = (
    "tocsin_actions_total",
    "tocsin_sessions_total",
    "tocsin_ext_proc_exchanges_total",
    "tocsin_relay_calls_total",
)


def main() -> None:
    learned = files(__doc__ or "", ".demo/openai")
    out, config = learned.out, learned.config
    model, envoy, relay = client(MODEL), client(ENVOY), client(RELAY)
    stopped = {}
    with ExitStack() as running:
        say("starting the model: SmolLM2-135M-Instruct on this machine's processor, behind OpenAI's API")
        server = [sys.executable, HERE / "openai_api.py", "--port", MODEL]
        running.enter_context(process(server, out / "model.log", f"{NAME} on"))
        wait_for(f"http://127.0.0.1:{MODEL}/v1/models")
        write(config, "observe")
        recording = [*tocsin("record"), "-c", config, "-o", learned.safe]
        with process(recording, out / "record.log", "recording:"), gateway(out, config):
            ask_safe(envoy, learned, "Envoy, which sends them to Tocsin")
        learn(learned)
        say("the same questions and stranger ones, straight from the model")
        complete = ask_all(model)
        write(config, "enforce")
        with process([*tocsin("serve"), "-c", config], out / "serve.log", "external processor"), gateway(out, config):
            say("and now through Envoy, stopped where they go astray")
            stopped["Envoy"] = ask_all(envoy)
            say("through Tocsin's own relay, without Envoy")
            stopped["relay"] = ask_all(relay)
            metrics = fetched(f"http://127.0.0.1:{METRICS}/metrics")
        say("and with nothing in between: the caller guards itself, by its transport")
        transport = guards.guard_transport(httpx.HTTPTransport(), guards.Guard.open(config))
        with httpx.Client(transport=transport, timeout=PATIENCE) as guarded:
            stopped["transport"] = ask_all(client(MODEL, http_client=guarded))
    show(complete, stopped, metrics, COUNTED)
    draw_worst(learned, complete)


def client(port: int, **more: Any) -> openai.OpenAI:
    url = f"http://127.0.0.1:{port}/v1"
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE, **more)


def write(config: Path, mode: str) -> None:
    """The configuration of all positions: `ask` asks for what the caller did not, and takes it out again."""
    model: dict[str, Any] = {
        "protocol": "openai", "ask": ALTERNATIVES, "judge": "message", "session": "stream", "scoring_budget": "1s",
    }  # fmt: skip
    if mode != "observe":  # before that there is no bundle
        model |= {"bundle": "llm.tocsin", "on_alarm": {"critical": "block"}}
    config.write_text(yaml.safe_dump({
        "ext_proc": f"127.0.0.1:{PROCESSOR}", "listen": f"127.0.0.1:{RELAY}", "upstream": f"127.0.0.1:{MODEL}",
        "mode": mode, "admin": None, "metrics": f"127.0.0.1:{METRICS}",
        "models": {NAME: model},
    }))  # fmt: skip


@contextmanager
def gateway(out: Path, config: Path) -> Iterator[None]:
    """Envoy before the model, with the filter that `tocsin attach` prints, checked by `tocsin attach --check`."""
    printed = subprocess.run([*map(str, tocsin("attach")), str(config)], check=True, capture_output=True, text=True)
    parts = yaml.safe_load(printed.stdout)
    file = out / "envoy.yaml"
    file.write_text(yaml.safe_dump(bootstrap(parts), sort_keys=False))
    run("attach", config, "--check", file)
    package = importlib.util.find_spec("envoy")
    folder = Path(next(iter(package.submodule_search_locations or ()))) if package is not None else Path()
    command = [folder / "_bin" / "envoy", "-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with process(command, out / "envoy.log", ""):
        wait_for(f"http://127.0.0.1:{ENVOY}/v1/models")
        yield


def bootstrap(parts: dict[str, list[Any]]) -> dict[str, Any]:
    """Envoy's whole configuration: HTTP/1.1 on both sides of it."""
    extensions = "type.googleapis.com/envoy.extensions.filters"

    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    router = {"@type": f"{extensions}.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "model", "timeout": f"{PATIENCE}s"}}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "model", "domains": ["*"], "routes": [route]}]},
        "http_filters": [*parts["http_filters"], {"name": "envoy.filters.http.router", "typed_config": router}],
    }
    endpoint = {"endpoint": {"address": address(MODEL)}}
    model = {
        "name": "model",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "model", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {
        "name": "callers",
        "address": address(ENVOY),
        "per_connection_buffer_limit_bytes": 32 << 20,
        "filter_chains": [chain],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [model, *parts["clusters"]]}}


def wait_for(url: str) -> None:
    ends = time.monotonic() + 180
    while True:
        with suppress(OSError):
            fetched(url)
            return
        if time.monotonic() > ends:
            raise SystemExit(f"nothing answers at {url}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
