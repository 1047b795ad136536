"""The model's answers, as they were on the wire: asked once, kept in a file, and read as the relay reads them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.report import console
from benchmarks.streams import questions
from benchmarks.streams.questions import Question

KEY = ("part", "prompt", "lead")
PORT, BATCH, ALTERNATIVES = 19779, 48, 20
ENGINE = Path(__file__).parents[2] / "examples" / "llm" / "engine.py"
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SAMPLED, SAMPLES = 400, 5  # questions that are answered several times, and how often
WORSE = "worse"  # the set of answers to the short questions by a worse model: the same one with coarse weights
WORSE_ENGINE = ("--weight-bits", 4)


class Wanted(NamedTuple):
    """A prompt to be answered: of which set, what it is, and how."""

    part: str
    question: Question
    samples: int = 1
    temperature: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """The key of a prompt, unique in the file."""
        return self.part, self.question.prompt, self.question.lead


@dataclass(frozen=True)
class Answer:
    """One generated sequence: T tokens with their K likeliest alternatives, and the messages that carried it."""

    question: Question
    index: int
    text: str
    ids: NDArray[np.int64]  # (T,)
    logprobs: NDArray[np.float32]  # (T,)
    top_logprobs: NDArray[np.float32]  # (T, K)
    messages: list[bytes]
    ends: tuple[int, ...]  # where in the text each token ends

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.question.right(self.text)


def wanted(parts: Collection[str] | None = None, count: int | None = None) -> list[Wanted]:
    """Every prompt of these sets, or of all of them; of the short questions `count` that are drawn at random, the same
    ones where they are answered worse.
    """
    short = questions.short()
    drawn = sorted(np.random.default_rng(9).permutation(len(short))[:count])
    everything = [Wanted("short", short[at]) for at in drawn]
    everything += [Wanted(WORSE, short[at]) for at in drawn]
    everything += [Wanted("choice", question) for question in questions.choices(orders=4)]
    chosen = np.random.default_rng(4).permutation(len(short))[:SAMPLED]
    everything += [Wanted("samples", short[at], SAMPLES, 0.8) for at in chosen]
    everything += [Wanted("long", question) for question in questions.long()]
    for kind, prompts in questions.mixed().items():
        everything += [Wanted(kind, Question(kind, prompt, "")) for prompt in prompts]
    everything += [
        Wanted("story", Question("story", f"Tell me about the {plural}.", "", 160)) for plural in questions.PLURALS[:80]
    ]
    return [prompt for prompt in everything if parts is None or prompt.part in parts]


def rebuild(path: Path, folder: Path, parts: Collection[str] | None = None, count: int | None = None) -> None:
    """Ask the engine every prompt that is wanted and that the file lacks, and write the file again."""
    stored = _stored(path)
    by_engine: dict[Sequence[object], list[Wanted]] = {}
    for prompt in wanted(parts, count):
        if prompt.key not in stored:
            by_engine.setdefault(WORSE_ENGINE if prompt.part == WORSE else (), []).append(prompt)
    for options, prompts in by_engine.items():
        with engine(folder, options):
            came = asyncio.run(_ask_all(prompts))
        stored |= {prompt.key: messages for prompt, messages in zip(prompts, came, strict=True)}
    columns = {name: [key[at] for key in stored] for at, name in enumerate(KEY)}
    staged = path.with_suffix(".part")
    pq.write_table(pa.table({**columns, "messages": list(stored.values())}), staged, compression="zstd")
    staged.replace(path)


def _stored(path: Path) -> dict[tuple[str, str, str], list[bytes]]:
    if not path.exists():
        return {}
    rows = pq.read_table(path).to_pylist()
    return {(row["part"], row["prompt"], row["lead"]): row["messages"] for row in rows}


@contextmanager
def engine(folder: Path, options: Sequence[object] = ()) -> Iterator[None]:
    """The example's engine with these options, while it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, ENGINE, "--port", PORT, "--model-folder", folder, "--batch", BATCH, *options]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        if not running.stdout.readline():
            raise SystemExit("the engine did not start: pip install -e '.[examples]'")
        try:
            yield
        finally:
            running.terminate()


async def _ask_all(prompts: list[Wanted]) -> list[list[bytes]]:
    from smg_grpc_proto.generated import vllm_engine_pb2_grpc as service

    order = sorted(range(len(prompts)), key=lambda at: (prompts[at].question.tokens, len(prompts[at].question.prompt)))
    answers: dict[int, list[bytes]] = {}
    began, slots = time.monotonic(), asyncio.Semaphore(2 * BATCH)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{PORT}") as channel:
        stub = service.VllmEngineStub(channel)

        async def ask(at: int) -> None:
            async with slots:
                answers[at] = [m.SerializeToString() async for m in stub.Generate(request(prompts[at], f"q{at}"))]
            if len(answers) % 200 == 0:
                console.print(f"{len(answers)} of {len(prompts)} prompts answered, {time.monotonic() - began:.0f} s")

        await asyncio.gather(*(ask(at) for at in order))
    return [answers[at] for at in range(len(prompts))]


def request(prompt: Wanted, name: str, logprobs: int | None = ALTERNATIVES) -> Any:
    """The request for one prompt."""
    from smg_grpc_proto.generated import vllm_engine_pb2 as vllm

    question = prompt.question
    text = TURN.format(question.prompt) + question.lead
    sampling = vllm.SamplingParams(
        temperature=prompt.temperature, max_tokens=question.tokens, n=prompt.samples, logprobs=logprobs, seed=7
    )
    return vllm.GenerateRequest(request_id=name, text=text, sampling_params=sampling, stream=True)


def read(path: Path, parts: Collection[str] | None = None, count: int | None = None) -> dict[str, list[Answer]]:
    """The kept answers to what is wanted, by set; those of one prompt one after the other."""
    from smg_grpc_proto.generated import vllm_engine_pb2 as vllm

    decode = _decoder()
    stored = _stored(path)
    by_set: dict[str, list[Answer]] = {}
    for prompt in wanted(parts, count):
        messages = stored.get(prompt.key)
        if messages is None:
            raise SystemExit(f"{path} lacks answers that are wanted: ask for them with --rebuild")
        parsed = [vllm.GenerateResponse.FromString(message) for message in messages]
        for index in range(prompt.samples):
            messages_of_sample = [(m, p) for m, p in zip(messages, parsed, strict=True) if _index(p) == index]
            by_set.setdefault(prompt.part, []).append(_answer(prompt.question, index, messages_of_sample, decode))
    return by_set


def _index(message: Any) -> int:
    return int(message.chunk.index if message.HasField("chunk") else message.complete.index)


def _answer(question: Question, index: int, messages: Iterable[tuple[bytes, Any]], decode: Any) -> Answer:
    pairs = list(messages)
    chunks = [parsed.chunk for _, parsed in pairs if parsed.HasField("chunk")]
    ids = np.array([t for chunk in chunks for t in chunk.token_ids], np.int64)
    tops = [top for chunk in chunks for top in chunk.output_logprobs.top_logprobs]
    texts = [decode(ids[: at + 1]) for at in range(len(ids))]
    return Answer(
        question, index, texts[-1] if texts else "", ids,
        np.array([p for chunk in chunks for p in chunk.output_logprobs.token_logprobs], np.float32),
        np.array([list(top.values) for top in tops], np.float32),
        [raw for raw, _ in pairs], tuple(len(text) for text in texts),
    )  # fmt: skip


def _decoder() -> Any:
    from examples.smollm2 import weights
    from transformers import AutoTokenizer

    file = weights()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
