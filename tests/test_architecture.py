"""Claims about the house: imports run one way, and serving needs nothing that only fitting needs."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("detectors", "calibration", "middleware") for p in (ROOT / folder).rglob("*.py")]

FITTING_ONLY = (
    "torch",
    "onnx",
    "spox",
    "pyarrow",
    "sklearn",
    "scipy",
    "matplotlib",
    "mlxtend",
    "tritonclient",
    "pandas",
)


def test_imports_run_from_middleware_to_calibration_to_detectors() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_files_import_each_other_in_no_circle() -> None:
    graph = grimp.build_graph("tocsin", "tocsin_calibration", "tocsin_detectors", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while leaves := [module for module, others in imports.items() if not others & imports.keys()]:
        for leaf in leaves:
            del imports[leaf]
    importers: dict[str, set[str]] = {module: set() for module in imports}
    for module, others in imports.items():
        for other in others & imports.keys():
            importers[other].add(module)
    while roots := [module for module, others in importers.items() if not others & importers.keys()]:
        for root in roots:
            del importers[root]
    assert not importers, "imports for type checking count as well"


def test_serving_judges_in_an_environment_without_the_packages_for_fitting(bundle: Path) -> None:
    program = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FITTING_ONLY!r}:
            raise ImportError(f"serving imported {{name}}")

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(ROOT)!r})
import tocsin.service, tocsin.cli, tocsin.inprocess.aio_channel, tocsin.inprocess.server
from tocsin.configuration.config import Config
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip
guard = Guard.open(Config(models={{"digits": {{"bundle": {str(bundle)!r}, "signals": {{
    "probs": "response.outputs.probs", "embedding": "response.outputs.embedding"}}}}}}))
message = oip.Response(model_name="digits")
import numpy as np
for name, width in (("probs", 10), ("embedding", 8)):
    message.outputs.add(name=name, datatype="FP32").shape.extend([1, width])
    message.raw_output_contents.append(np.full(width, 0.1, np.float32).tobytes())
call = guard.call("/inference.GRPCInferenceService/ModelInfer", {{}})
call.response = message.SerializeToString()
guard.judge([call])
assert call.verdict.unscored is None, call.verdict
print("judged", sorted(set(sys.modules) & set({FITTING_ONLY!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "judged []\n", done.stderr


def imported(program: str) -> set[str]:
    """What a new process has imported when the program is over."""
    program += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_every_detector_needs_nothing_that_only_fitting_needs() -> None:
    everything = "import tocsin_detectors as public; every = [getattr(public, name) for name in public.__all__]"
    modules = imported(everything)
    assert "tocsin_detectors.embedding.rnd" in modules and not {"torch", "onnx", "spox"} & modules


def test_a_guard_is_imported_without_the_detectors_evaluation_and_onnx_runtime() -> None:
    modules = imported("import tocsin; tocsin.Guard")
    assert "tocsin_calibration.promise" in modules
    assert not {"tocsin_calibration.evaluation", "tocsin_detectors.embedding", "tocsin_detectors.confidence"} & modules
    # Each a tenth of a second or near it, and nothing that is judged takes them: a bundle does, or another position.
    assert not {"asyncio", "grpc", "onnxruntime", "prometheus_client", "rich", "ssl", "structlog", "typer"} & modules


@pytest.mark.parametrize("position", ["tocsin.asgi", "tocsin.inprocess.httpx_transport"])
def test_programs_that_guard_http_import_no_grpc(position: str) -> None:
    opened = (
        f"import tocsin, {position}; from tocsin.configuration.config import Config; tocsin.Guard.open(Config(models="
        "{'llm': {'protocol': 'openai', 'signals': {'probs': 'response.scores'}}}))"
    )
    assert "grpc" not in imported(opened)


def test_onnx_runtime_is_imported_where_its_telemetry_is_turned_off_first() -> None:
    others = [path for folder in ("benchmarks", "examples", "tests") for path in (ROOT / folder).rglob("*.py")]
    importing = set()
    for path in [*SOURCES, *others]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "onnxruntime" for name in names):
                importing.add(path.relative_to(ROOT).as_posix())
    assert importing == {"detectors/tocsin_detectors/onnx_runtime.py"}


def test_errors_of_one_block_have_names_of_their_own_where_they_are_compiled() -> None:
    compiled = runpy.run_path(str(ROOT / "setup.py"))["files"]()
    assert "middleware/tocsin/ext_proc/connection_streams.py" in compiled
    for path in compiled:  # in a compiled function a name has one type: the second error would be taken for the first
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [handler.name for handler in node.handlers if handler.name] if isinstance(node, ast.Try) else []
            assert len(names) == len(set(names)), f"{path}: {names}"


def test_constants_of_compiled_modules_are_final() -> None:
    """Compiled, they are numbers and objects then; others are looked up by name wherever they are used."""
    constant = re.compile(r"_?[A-Z][A-Z0-9_]+")
    for path in runpy.run_path(str(ROOT / "setup.py"))["files"]():
        for node in ast.parse((ROOT / path).read_text()).body:
            targets: list[ast.expr] = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("Final"):
                targets = [node.target]
            names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            assert not [name for name in names if constant.fullmatch(name)], f"{path}, line {node.lineno}"


def test_compiled_classes_inherit_from_compiled_ones() -> None:
    """An instance of another, such as a span of the SDK, has places for attributes and weak references that a compiled
    class knows nothing of, and writes over.
    """
    trees = [ast.parse((ROOT / path).read_text()) for path in runpy.run_path(str(ROOT / "setup.py"))["files"]()]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    without_places = {"NamedTuple", "Exception", "Protocol", "Sequence"}
    allowed = {node.name for node in classes} | without_places
    bases = {(node.name, ast.unparse(base).partition("[")[0]) for node in classes for base in node.bases}
    assert len(bases) > 30 and [(name, base) for name, base in bases if base not in allowed] == []


def test_tests_replace_no_constants_of_compiled_modules() -> None:
    """Which would change nothing there, so that such a test fails, or says nothing."""
    compiled = {Path(path).stem: path for path in runpy.run_path(str(ROOT / "setup.py"))["files"]()}
    replaced = re.compile(r"""setattr\(\s*(?:"[\w.]*?(\w+)\.|(\w+), ")(_?[A-Z][A-Z0-9_]+)\"""")
    for path in (ROOT / "tests").rglob("*.py"):
        for in_text, by_name, constant in replaced.findall(path.read_text()):
            module = compiled.get(in_text or by_name)
            assert module is None or f"\n{constant}: Final" not in (ROOT / module).read_text(), f"{path}: {constant}"


def test_nothing_unpickles_or_evaluates() -> None:
    forbidden = re.compile(
        r"\b(pickle|joblib|dill|cloudpickle|marshal)\b.*import|import (pickle|joblib|dill)|\beval\(|\bexec\("
    )
    offences = [
        f"{path}: {line}" for path in SOURCES for line in path.read_text().splitlines() if forbidden.search(line)
    ]
    assert offences == []


def test_no_name_is_a_dumping_ground() -> None:
    assert not [p for p in SOURCES if p.stem in {"utils", "util", "helpers", "helper", "common", "base", "misc"}]


LONGEST_BODY = 60  # lines of a function, without its signature (of a command: its options) and its docstring
LONG = {
    "middleware/tocsin/http2/splitter.py: split",  # the loop over every frame: its state stands in local variables
    "middleware/tocsin/relay/request_block.py: _walk_head",  # one pass over HPACK's octets: a call for each costs more
}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines from a function's first statement to its last, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_no_function_is_too_long_to_be_read_at_once() -> None:
    folders = (ROOT / folder for folder in ("benchmarks", "examples", "tests"))
    paths = [*SOURCES, *(path for folder in folders for path in folder.rglob("*.py"))]
    long = {
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > LONGEST_BODY
    }
    assert long == LONG
