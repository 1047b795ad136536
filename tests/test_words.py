"""Names say what a thing is: no bare pronoun or participle is bound in shipped code, examples, and the site's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for root in ("calibration", "detectors", "benchmarks/fiper", "docs/site", "examples", "middleware")
    for path in (ROOT / root).rglob("*.py")
    if not path.name.endswith("_pb2.py")
)
# Say of what instead.
BANNED = frozenset("answered asked begun found kept known left made one over own seen taken told whole".split())  # noqa: SIM905


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What a module binds: functions, classes, parameters, variables, attributes; with the line of each."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.alias(asname=str()):
                yield node.asname, node.lineno
            case ast.ExceptHandler(name=str()):
                yield node.name, node.lineno


def banned(source: str) -> list[tuple[str, int]]:
    return [(name, line) for name, line in names(ast.parse(source)) if name.strip("_").lower() in BANNED]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_a_bare_pronoun_or_participle(path: Path) -> None:
    assert not banned(path.read_text(encoding="utf-8")), "say what it is: CONTRIBUTING.md, Names"


@pytest.mark.parametrize(
    "source",
    ["told = 1", "def f(found): ...", "self._kept = 1", "for one in x: ...", "class Known: ...", "[own for own in x]",
     "import x as seen", "if (left := 1): ...", "with x as made: ...", "lambda whole: 1"],
)  # fmt: skip
def test_each_way_to_bind_a_name_is_seen(source: str) -> None:
    assert banned(source)
