"""Token streams of a real language model behind a real protocol: evidence for what docs/llm.md says.

    python -m benchmarks.streams --rebuild           # asks SmolLM2; takes half an hour on two cores
    python -m benchmarks.streams --json streams.json # from the answers that are kept
    python -m benchmarks.streams --rebuild --only probing --questions 600   # a third of the questions: ten minutes

The model answers questions from tables that come with packages; its answers are kept as they were on the wire.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.report import arguments, console, finish
from benchmarks.streams import answers
from benchmarks.streams.alarming import alarm
from benchmarks.streams.choosing import choose
from benchmarks.streams.cost import cost
from benchmarks.streams.probing import probe
from benchmarks.streams.questions import mixed
from benchmarks.streams.stopping import stop
from benchmarks.streams.telling import select, tell

SETS = {  # of answers that a part reads
    "telling": ("short", "samples"),
    "probing": ("short",),
    "selecting": ("short",),
    "choosing": ("choice",),
    "alarming": ("short", *mixed()),
    "stopping": ("long", "story"),
    "cost": ("long", "story"),
}
EMBEDDER = Path(__file__).parents[2] / "examples" / "llm" / "embedder.py"


def main() -> None:
    options = arguments(
        __doc__ or "",
        kept={"type": Path, "default": Path(".demo/streams"), "help": "where answers and models are kept"},
        rebuild={"action": "store_true", "help": "ask the model what is not kept yet"},
        questions={"type": int, "help": "of the short questions, so many, drawn at random; all of them unless told"},
        only={"nargs": "*", "help": ", ".join(SETS)},
    )
    folder: Path = options.kept
    folder.mkdir(parents=True, exist_ok=True)
    path, model, embedder = folder / "answers.parquet", folder / "model", folder / "embedder.onnx"
    chosen = options.only or [*SETS]
    if options.questions and "samples" in (name for part in chosen for name in SETS[part]):
        raise SystemExit("--questions: `telling` compares samples of some questions with all short ones; leave it out")
    sets = {name for part in chosen for name in SETS[part]}
    if options.rebuild or not path.exists():
        console.print("asking SmolLM2-135M-Instruct; what is kept already is not asked again")
        answers.rebuild(path, model, sets, options.questions)
    by_set = answers.read(path, sets, options.questions)
    if "telling" in chosen and not embedder.exists():
        subprocess.run([sys.executable, EMBEDDER, embedder, "--samples", str(answers.SAMPLES)], check=True)
    parts = {
        "telling": lambda: tell(by_set["short"], by_set["samples"], embedder),
        "probing": lambda: probe(by_set["short"], folder),
        "selecting": lambda: select(by_set["short"]),
        "choosing": lambda: choose(by_set["choice"]),
        "alarming": lambda: alarm(by_set["short"], {kind: by_set[kind] for kind in mixed()}),
        "stopping": lambda: stop(by_set["long"], by_set["story"]),
        "cost": lambda: cost([*by_set["long"], *by_set["story"]], model, folder),
    }
    results, checks = {}, []
    for name in chosen:
        results[name], more = parts[name]()
        checks += more
    finish(results, checks, options.json)


if __name__ == "__main__":
    main()
