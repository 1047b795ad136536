"""The matrix of HTTP: what becomes of a response, by endpoint, streaming, answers, tools, coding, position and mode.

python -m benchmarks.matrix --json matrix.json --page docs/http-matrix.md
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.matrix.cases import bundles
from benchmarks.matrix.cells import Cell, cells
from benchmarks.matrix.page import page
from benchmarks.report import Check, arguments, console, finish


def matrix() -> list[Cell]:
    """Every cell, run now."""
    with tempfile.TemporaryDirectory() as folder:
        return list(cells(bundles(Path(folder))))


def main() -> None:
    options = arguments(__doc__ or "", page={"type": Path, "help": "write the page of the docs to this file"})
    logging.getLogger("tocsin").setLevel(logging.ERROR)  # each cell warns of what it counts
    cells = matrix()
    text = page(cells)
    console.print(text, markup=False)
    if options.page is not None:
        options.page.write_text(text)
    rows = [{"endpoint": " ".join(cell.case.name), "position": cell.position, "mode": cell.mode,
             "encoding": cell.encoding, "outcome": cell.text} for cell in cells]  # fmt: skip
    failures = sum(cell.is_failure for cell in cells)
    counts = Counter(cell.outcome for cell in cells)
    check = Check("cells that passed silently, or were wrong", failures, "0", failures == 0)
    finish({"outcomes": dict(counts), "cells": rows}, [check], options.json)


if __name__ == "__main__":
    main()
