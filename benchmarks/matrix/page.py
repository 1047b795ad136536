"""The matrix as a page of the docs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.matrix.cases import ENCODINGS
from benchmarks.matrix.cells import MODES, Cell

HEAD = """\
# What is judged of HTTP

What becomes of a response, by endpoint, streaming, number of answers, calls of tools, content coding, position and
mode. `python -m benchmarks.matrix --page docs/http-matrix.md` prints this page: it sends an ordinary and a strange
answer through every cell. A test holds that the page is what it prints.

- **judged**: the ordinary answer passes whole, with its verdict where the mode tells it, and the strange one raises an
  alarm; in `enforce` it is withheld, or its stream is stopped.
- **judged, not told**: the same, but the response has no place for the verdict. Metrics and events have it.
- **counted**: it could not be scored, passes, and is counted in `tocsin_unscored_total` under the reason in brackets.
- **refused**: it could not be scored, and with `fail: closed` the caller gets an error in its place.

Of {total:,} cells, {silent} let a response pass silently: {counts}.

The external processor has the filter that `tocsin attach` prints for the mode, and is told what Envoy tells. The HTTP
relay stands between sockets; its caller takes no trailers.

Codings are {codings}; `x-unknown` stands for one that nobody knows.
"""
TITLES = {mode: f"`{mode}`" for mode in MODES} | {"closed": "`enforce`, `fail: closed`"}


def page(cells: Sequence[Cell]) -> str:
    """The page in Markdown."""
    counts = Counter(cell.outcome for cell in cells)
    counted = ", ".join(f"{count:,} are {outcome}" for outcome, count in sorted(counts.items()))
    silent = sum(cell.is_failure for cell in cells)
    codings = ", ".join(f"`{name}`" for name in ENCODINGS)
    head = HEAD.format(silent=silent, total=len(cells), counts=counted, codings=codings)
    parts = [head]
    tables: dict[str, list[str]] = {}
    for position in dict.fromkeys(cell.position for cell in cells):
        tables.setdefault(_table([cell for cell in cells if cell.position == position]), []).append(position)
    for table, positions in tables.items():
        parts.append(f"## {_listed(positions)}\n\n{table}")
    return "\n".join(parts)


def _table(cells: Sequence[Cell]) -> str:
    columns = " | ".join(TITLES[mode] for mode in MODES)
    lines = [f"| endpoint | streams | answers | tools | {columns} |", "|---" * (4 + len(MODES)) + "|"]
    for case in dict.fromkeys(cell.case.name for cell in cells):
        mine = [cell for cell in cells if cell.case.name == case]
        texts = [_by_encoding([cell for cell in mine if cell.mode == mode]) for mode in MODES]
        lines.append(f"| {' | '.join([*case, *texts])} |")
    return "\n".join(lines) + "\n"


def _by_encoding(cells: Sequence[Cell]) -> str:
    """What most codings have, and the others by name."""
    by_text: dict[str, list[str]] = {}
    for cell in cells:
        by_text.setdefault(cell.text, []).append(cell.encoding)
    most, *others = sorted(by_text, key=lambda text: -len(by_text[text]))
    return "; ".join([most, *(f"{', '.join(by_text[text])}: {text}" for text in others)])


def _listed(names: Sequence[str]) -> str:
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return text[:1].upper() + text[1:]
