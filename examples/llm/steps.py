"""What the demos of a guarded language model do alike: they learn from safe answers, and show what was stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import openai
from answers import WINDOW, Answer, ask, draw, pvalues
from prompts import ASTRAY, SAFE, USUAL

sys.path.append(str(Path(__file__).parents[1]))
from running import run, say

from tocsin_calibration import Bundle

QUESTIONS = (USUAL, *ASTRAY)
# Safe answers: 84 are left to calibrate, some of which set the detectors' common scale; one alarm in fifty takes 49.
LEARNED = 120


class Files(NamedTuple):
    """Where a demo keeps what it learns."""

    out: Path
    prompts: int

    @property
    def bundle(self) -> Path:
        return self.out / "llm.tocsin"

    @property
    def config(self) -> Path:
        return self.out / "tocsin.yaml"

    @property
    def safe(self) -> Path:
        """The recorded answers to safe questions."""
        return self.out / "safe"


def files(doc: str, default: str) -> Files:
    """What the command line says; what an earlier run has recorded is removed."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, default=Path(default))
    parser.add_argument("--prompts", type=int, default=LEARNED, help="safe prompts to learn from")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for old in (options.out / "safe").glob("*.parquet"):
        old.unlink()
    return Files(options.out, options.prompts)


def ask_safe(client: openai.OpenAI, learned: Files, way: str) -> None:
    """Ask the safe questions, while they are recorded."""
    safe = SAFE[: learned.prompts]
    say(f"asking {len(safe)} safe questions through {way}, and recording")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda question: ask(client, question), safe))
    if failed := [answer.ended for answer in answers if answer.ended not in ("stop", "length")]:
        raise SystemExit(f"{len(failed)} of {len(safe)} safe questions were not answered to the end: {failed[0]}")


def learn(learned: Files) -> None:
    """Fit detectors on a part of the recorded answers, and calibrate with the rest."""
    detectors = ["-d", "max_surprisal", "-d", "token_entropy"]
    run("fit", learned.safe, "-o", learned.bundle, *detectors, "--sessions", "session", "--share", "0.3")
    promised = ["--sessions", "session", "--window", WINDOW, "--warning", "0.05", "--critical", "0.02"]
    run("calibrate", learned.bundle, learned.safe, *promised, "--on-average")


def ask_all(client: openai.OpenAI) -> list[Answer]:
    """The answers to a usual question and to strange ones, which the model writes in one batch."""
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        return list(pool.map(lambda question: ask(client, question), QUESTIONS))


def show(
    complete: Sequence[Answer], stopped: Mapping[str, Sequence[Answer]], metrics: str, names: Sequence[str]
) -> None:
    """Each complete answer, how much of it came through each position, and counters of these names."""
    for at, question in enumerate(QUESTIONS):
        print(f"\n{question}\n  {''.join(complete[at].tokens)!r}")
        for position, answers in stopped.items():
            cut = answers[at]
            print(f"  {position}: {len(cut.tokens)} of {len(complete[at].tokens)} tokens, then: {cut.ended}")
    print("\n" + "\n".join(line for line in metrics.splitlines() if line.startswith(tuple(names))))


def draw_worst(learned: Files, complete: Sequence[Answer]) -> None:
    """A picture of the usual answer and of the strangest one."""
    opened, (usual, *strange) = Bundle.read(learned.bundle), complete
    worst = min(range(len(ASTRAY)), key=lambda at: min(pvalues(opened, strange[at])))
    picture = learned.out / "tokens.png"
    draw(opened, [(USUAL, usual), (ASTRAY[worst], strange[worst])], picture)
    say(f"one safe and one alarmed answer, token by token: {picture}")
