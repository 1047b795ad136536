"""A public guardrail's scores on real answers, for `tocsin promise` and `tocsin watch`.

The guard looks for secrets in code, as TruffleHog and detect-secrets do: the entropy of a string of more than twenty
characters of base64, in bits a character. Both ship with the threshold 4.5. The answers are the sources of functions in
Python's library; those that should alarm got a random key put in. Nothing is downloaded.

    python examples/guardrail.py FOLDER       # writes scores.csv and log.jsonl in a few seconds
"""

from __future__ import annotations

import ast
import base64
import csv
import json
import math
import random
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LONGER_THAN = 20  # characters of a string that is looked at
LEAKS = 0.02  # the share of answers that hold a key
LOGGED = 0.3  # the share of answers that are written to the log, some of the last with keys in them
SINCE, LEAKS_THEN = 0.7, 0.1  # after that share of the log, answers leak more often

PACKAGES = ["", "asyncio", "concurrent/futures", "email", "html", "http", "importlib", "json", "logging"]
PACKAGES += ["multiprocessing", "unittest", "urllib", "wsgiref", "xml/dom", "xmlrpc", "zipfile"]


def entropy(answer: str) -> float:
    """The largest entropy of a string in the answer that could be a key, bits a character; 0 where there is none."""
    strings = re.findall(rf"[A-Za-z0-9+/=]{{{LONGER_THAN + 1},}}", answer)
    return max(map(_bits, strings), default=0.0)


def _bits(string: str) -> float:
    return -sum(n / len(string) * math.log2(n / len(string)) for n in Counter(string).values())


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    answers = sorted(set(functions()))
    chance.shuffle(answers)
    logged = round(len(answers) * LOGGED)
    with (folder / "scores.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["entropy", "leaks"])
        for answer in answers[logged:]:
            leaks = chance.random() < LEAKS
            table.writerow([f"{entropy(leaking(answer, chance) if leaks else answer):.4f}", int(leaks)])
    with (folder / "log.jsonl").open("w") as file:
        for place, answer in enumerate(answers[:logged]):
            leaks = chance.random() < LEAKS_THEN and place > SINCE * logged
            file.write(json.dumps({"entropy": round(entropy(leaking(answer, chance) if leaks else answer), 4)}) + "\n")
    print(f"{len(answers) - logged:,} answers in scores.csv, {logged:,} in log.jsonl")


def leaking(answer: str, chance: random.Random) -> str:
    """The answer with a key in it: 20 to 40 random bytes, in base64 or hexadecimal."""
    key = chance.randbytes(chance.choice([20, 24, 32, 40]))
    return f'{answer}\nKEY = "{key.hex() if chance.random() < 0.5 else base64.b64encode(key).decode()}"'


def functions() -> Iterator[str]:
    """The sources of the functions and methods in Python's library."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(path for package in PACKAGES for path in (library / package).glob("*.py")):
        lines = path.read_text("utf-8", "replace").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


if __name__ == "__main__":
    main()
