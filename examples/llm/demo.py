"""A language model behind a real gateway, guarded at the seam between gateway and engine.

    make demo-llm

smg, the gateway, speaks OpenAI's HTTP API to callers and vLLM's gRPC protocol to the engine; Tocsin relays the latter.
It asks for log-probabilities that nobody asked for, takes them out again, judges every token in a window of its stream,
and stops a stream in the middle when it is stranger than all but two of a hundred safe ones.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import openai
import yaml
from answers import ALTERNATIVES, NAME, ask
from prompts import USUAL
from steps import ask_all, ask_safe, draw_worst, files, learn, show

sys.path.append(str(Path(__file__).parents[1]))
from running import fetched, process, say, tocsin

ENGINE, RELAY, GATEWAY, METRICS = 19460, 19462, 30150, 19461  # ports
URL = f"http://127.0.0.1:{GATEWAY}/v1"
HERE = Path(__file__).parent


def main() -> None:
    learned = files(__doc__ or "", ".demo/llm")
    out, config = learned.out, learned.config
    with ExitStack() as running:
        say("starting the engine: SmolLM2-135M-Instruct on this machine's processor")
        engine = [sys.executable, HERE / "engine.py", "--port", ENGINE, "--model-folder", out / "model"]
        running.enter_context(process(engine, out / "engine.log", f"{NAME} on"))
        write(config, "observe")
        recording = [*tocsin("record"), "-c", config, "-o", learned.safe]
        with process(recording, out / "record.log", "recording:"), gateway(out) as client:
            ask_safe(client, learned, "gateway, relay and engine")
        learn(learned)
        write(config, "observe")
        with process([*tocsin("serve"), "-c", config], out / "observe.log", "->"), gateway(out) as client:
            say("the same questions and stranger ones, watched")
            complete = ask_all(client)
            say(f"is this model fit to judge answers? tocsin check judge --url {URL} --model {NAME}")
            subprocess.run([*map(str, tocsin("check")), "judge", "--url", URL, "--model", NAME], check=False)
        write(config, "enforce")
        with process([*tocsin("serve"), "-c", config], out / "enforce.log", "->"), gateway(out) as client:
            say("and now stopped where they go astray")
            stopped = ask_all(client)
            metrics = fetched(f"http://127.0.0.1:{METRICS}/metrics")
    show(complete, {"enforce": stopped}, metrics, ["tocsin_actions_total", "tocsin_sessions_total"])
    draw_worst(learned, complete)


def write(config: Path, mode: str) -> None:
    model = {
        "protocol": "vllm", "bundle": "llm.tocsin", "ask": ALTERNATIVES, "judge": "message", "session": "stream",
        "scoring_budget": "100ms", "on_alarm": {"critical": "block"},
        "block": {"ending": {"complete": {"finish_reason": "content_filter"}}},
    }  # fmt: skip
    config.write_text(yaml.safe_dump({
        "listen": f"127.0.0.1:{RELAY}", "upstream": f"127.0.0.1:{ENGINE}", "mode": mode, "admin": None,
        "metrics": f"127.0.0.1:{METRICS}", "models": {NAME: model},
    }))  # fmt: skip


@contextmanager
def gateway(out: Path) -> Iterator[openai.OpenAI]:
    """smg in front of the relay, and a client of it."""
    model = out / "model"
    command = [
        Path(sys.executable).with_name("smg"), "launch", "--host", "127.0.0.1", "--port", GATEWAY, "--worker-urls",
        f"grpc://127.0.0.1:{RELAY}", "--model-path", model, "--tokenizer-path", model / "tokenizer.json",
        "--disable-retries", "--disable-circuit-breaker",
    ]  # fmt: skip
    with process(command, out / "gateway.log", ""):
        ends = time.monotonic() + 90
        client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
        while True:
            with suppress(OSError):
                if NAME in fetched(f"{URL}/models") and ask(client, USUAL).tokens:  # its tokenizer comes later
                    break
            if time.monotonic() > ends:
                raise SystemExit(f"the gateway did not find the engine: see {out / 'gateway.log'}")
            time.sleep(0.2)
        yield client


if __name__ == "__main__":
    main()
