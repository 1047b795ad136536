"""Names say what a thing is: no bare pronoun or participle is bound, and a class has a name of its own."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for root in ("calibration", "detectors", "benchmarks", "docs/site", "examples", "middleware")
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
            case ast.ExceptHandler(name=str()) | ast.MatchAs(name=str()) | ast.MatchStar(name=str()):
                yield str(node.name), node.lineno


def banned(source: str) -> list[tuple[str, int]]:
    return [(name, line) for name, line in names(ast.parse(source)) if name.strip("_").lower() in BANNED]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_a_bare_pronoun_or_participle(path: Path) -> None:
    assert not banned(path.read_text(encoding="utf-8")), "say what it is: CONTRIBUTING.md, Names"


@pytest.mark.parametrize(
    "source",
    ["told = 1", "def f(found): ...", "self._kept = 1", "for one in x: ...", "class Known: ...", "[own for own in x]",
     "import x as seen", "if (left := 1): ...", "with x as made: ...", "lambda whole: 1",
     "match x:\n    case [*known]: ...", "match x:\n    case int() as over: ..."],
)  # fmt: skip
def test_each_way_to_bind_a_name_is_seen(source: str) -> None:
    assert banned(source)


# Of two classes in shipped code that share a name, why they do.
NAMESAKES = {
    "Family": "a metric family is Prometheus' word; a family of responses is one whose rows stack",
    "Judge": "the gate's order that a call be judged, and what carries it out",
    "Limits": "what callers may use, by configuration; and the thresholds of a promise, public in tocsin_calibration",
    "_Callable": "grpc's and grpc.aio's twins",
    "_ManyResponses": "grpc's and grpc.aio's twins",
    "_OneResponse": "grpc's and grpc.aio's twins",
    "StreamStream": "grpc's and grpc.aio's twins",
    "StreamUnary": "grpc's and grpc.aio's twins",
    "UnaryStream": "grpc's and grpc.aio's twins",
    "UnaryUnary": "grpc's and grpc.aio's twins",
}


def test_a_class_name_stands_for_one_class() -> None:
    places = defaultdict(list)
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] in ("calibration", "detectors", "middleware"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice.keys() == NAMESAKES.keys(), {name: twice.get(name) for name in twice.keys() ^ NAMESAKES.keys()}
