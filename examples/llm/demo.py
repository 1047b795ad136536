"""A language model behind a real gateway, guarded at the seam between gateway and engine.

    make demo-llm

smg, the gateway, speaks OpenAI's HTTP API to callers and vLLM's gRPC protocol to the engine; Tocsin relays the latter.
It asks for log-probabilities that nobody asked for, takes them out again, judges every token in a window of its stream,
and stops a stream in the middle when it is stranger than all but two of a hundred safe ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import openai
import yaml
from prompts import ASTRAY, SAFE, USUAL

sys.path.append(str(Path(__file__).parents[1]))
from running import fetched, process, run, say, tocsin

from tocsin_calibration import Bundle
from tocsin_detectors import Observations

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENGINE, RELAY, GATEWAY, METRICS = 19460, 19462, 30150, 19461  # ports
URL = f"http://127.0.0.1:{GATEWAY}/v1"
NAME, ALTERNATIVES, WINDOW, TOKENS = "smollm2", 5, 4, 24
HERE = Path(__file__).parent


class Answer(NamedTuple):
    """What a caller got: the tokens with their log-probabilities and alternatives, and why it ended."""

    tokens: list[str]
    logprobs: list[float]
    tops: list[list[float]]
    ended: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".demo/llm"))
    parser.add_argument("--prompts", type=int, default=len(SAFE), help="safe prompts to learn from")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "safe").glob("*.parquet"):
        old.unlink()
    bundle, config = out / "llm.tocsin", out / "tocsin.yaml"
    with ExitStack() as running:
        say("starting the engine: SmolLM2-135M-Instruct on this machine's processor")
        engine = [sys.executable, HERE / "engine.py", "--port", ENGINE, "--model-folder", out / "model"]
        running.enter_context(process(engine, out / "engine.log", f"{NAME} on"))
        write(config, "observe")
        recording = [*tocsin("record"), "-c", config, "-o", out / "safe"]
        with process(recording, out / "record.log", "recording:"), gateway(out) as client:
            safe = SAFE[: options.prompts]
            say(f"asking {len(safe)} safe questions through gateway, relay and engine, and recording")
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda question: ask(client, question), safe))
        detectors = ["-d", "max_surprisal", "-d", "token_entropy"]
        run("fit", out / "safe", "-o", bundle, *detectors, "--sessions", "session", "--share", "0.3")
        settings = [
            "--sessions",
            "session",
            "--window",
            WINDOW,
            "--warning",
            "0.05",
            "--critical",
            "0.02",
            "--on-average",
        ]
        run("calibrate", bundle, out / "safe", *settings)
        write(config, "observe")
        with process([*tocsin("serve"), "-c", config], out / "observe.log", "->"), gateway(out) as client:
            say("the same questions and stranger ones, watched")
            usual = ask(client, USUAL)
            strange = [ask(client, question) for question in ASTRAY]
            say(f"is this model fit to judge answers? tocsin check judge --url {URL} --model {NAME}")
            subprocess.run([*map(str, tocsin("check")), "judge", "--url", URL, "--model", NAME], check=False)
        write(config, "enforce")
        with process([*tocsin("serve"), "-c", config], out / "enforce.log", "->"), gateway(out) as client:
            say("and now stopped where they go astray")
            stopped = [ask(client, question) for question in (USUAL, *ASTRAY)]
            metrics = fetched(f"http://127.0.0.1:{METRICS}/metrics")
    opened = Bundle.read(bundle)
    worst = min(range(len(ASTRAY)), key=lambda at: min(pvalues(opened, strange[at])))
    for question, complete, cut in zip((USUAL, *ASTRAY), (usual, *strange), stopped, strict=True):
        print(f"\n{question}\n  {''.join(complete.tokens)!r}")
        print(f"  enforce: {len(cut.tokens)} of {len(complete.tokens)} tokens, then: {cut.ended}")
    counted = [
        line for line in metrics.splitlines() if line.startswith(("tocsin_actions_total", "tocsin_sessions_total"))
    ]
    print("\n" + "\n".join(counted))
    draw(opened, [(USUAL, usual), (ASTRAY[worst], strange[worst])], out / "tokens.png")
    say(f"one safe and one alarmed answer, token by token: {out / 'tokens.png'}")


def ask(client: openai.OpenAI, question: str) -> Answer:
    """Stream an answer, with the log-probabilities that the picture needs."""
    tokens, logprobs, tops, ended = [], [], [], ""
    try:
        for event in client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": question}], stream=True, max_tokens=TOKENS, temperature=0,
            logprobs=True, top_logprobs=ALTERNATIVES,
        ):  # fmt: skip
            for choice in event.choices:
                for token in (choice.logprobs and choice.logprobs.content) or []:
                    tokens.append(token.token)
                    logprobs.append(token.logprob)
                    tops.append([other.logprob for other in token.top_logprobs])
                ended = choice.finish_reason or ended
    except openai.OpenAIError as error:
        ended = f"{type(error).__name__}: {error}"
    return Answer(tokens, logprobs, tops, ended)


def scored(bundle: Bundle, answer: Answer) -> tuple[Any, Any]:
    """Each token's nonconformity in its window, and p-values, as the relay computes them."""
    promise = bundle.require_promise()
    assert promise.sessions is not None
    session = promise.sessions.start()
    joint, token_pvalues = [], []
    for logprob, top in zip(answer.logprobs, answer.tops, strict=True):
        signals = {"token_logprobs": np.array([[logprob]]), "top_logprobs": np.array([[top]])}
        row = bundle.scorer(Observations({name: signals[name] for name in bundle.scorer.signals}))
        judged = promise.judge(row, sessions=[session])
        joint += judged.joint
        token_pvalues += judged.pvalues
    return joint, token_pvalues


def pvalues(bundle: Bundle, answer: Answer) -> list[float]:
    token_pvalues: list[float] = scored(bundle, answer)[1]
    return token_pvalues or [1.0]


def draw(bundle: Bundle, answers: list[tuple[str, Answer]], path: Path) -> None:
    """Surprisal of each token, and its window's nonconformity with the thresholds."""
    promise = bundle.require_promise()
    figure, axes = plt.subplots(len(answers), 1, figsize=(12, 3.4 * len(answers)), squeeze=False)
    for (question, answer), axis in zip(answers, axes[:, 0], strict=True):
        joint, _ = scored(bundle, answer)
        places = range(len(answer.tokens))
        axis.bar(
            places, [-logprob for logprob in answer.logprobs], color="#9aa7b5", label="surprisal of the token, nats"
        )
        axis.plot(places, joint, color="#1b4f9c", marker="o", label=f"evidence, mean of {WINDOW} tokens")
        for severity, colour in (("warning", "#d98200"), ("critical", "#b3261e")):
            limit = promise.thresholds[severity]
            axis.axhline(
                limit, color=colour, linestyle="--", label=f"{severity}: {promise.alphas[severity]:.0%} of streams"
            )
        axis.set_xticks(
            list(places), [repr(token)[1:-1] for token in answer.tokens], rotation=60, ha="right", fontsize=8
        )
        axis.set_title(question, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(0, max(1.15 * max(promise.thresholds.values()), axis.get_ylim()[1]))
    axes[0, 0].legend(fontsize=8, frameon=False, loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


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
