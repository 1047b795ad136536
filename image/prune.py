"""Reduce an environment to what Tocsin uses while it serves, and the sources in it to bytecode.

python image/prune.py /opt/tocsin     # with the Python that made the environment

Nothing goes that a module of Tocsin imports: `make test-image` runs the tests of the base install in what is left, and
has it fetch a bundle, share sessions by Redis and guard a server.
"""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

# What goes, by what it is for, in site-packages.
UNUSED = {
    "installing packages": "pip pip-* setuptools setuptools-* pkg_resources _distutils_hack distutils-* */RECORD",
    "ONNX Runtime for programs in C, which its module for Python contains again": "onnxruntime/capi/libonnxruntime.so*",
    "making, converting and quantising models": """
        onnxruntime/backend onnxruntime/datasets onnxruntime/quantization onnxruntime/tools onnxruntime/transformers
    """,
    "building extensions and stubs": """
        numpy/f2py numpy/distutils **/*.a **/*.c **/*.h **/*.proto **/*.pxd **/*.pxi [!t]*/**/*.pyi **/*.pyx
    """,  # the stubs of Tocsin's packages tell at run time what they import later
    "parts of NumPy and gRPC that are imported when asked for, and that nobody here asks for": """
        numpy/polynomial grpc/beta grpc/framework
    """,
    "a second reader of YAML, in C, without which the one in Python reads": "yaml/_yaml.*.so",
    "tests and benchmarks of others": """
        [!t]*/**/tests jsonschema/benchmarks numpy/_core/_simd.*.so numpy/_core/*_tests.*.so
    """,
    "Pydantic's first version": "pydantic/v1",
    "what extensions in Rust were made of, and NumPy in frozen programs": "*.dist-info/sboms numpy/_pyinstaller",
    "texts in colour for files, which Rich prints itself": "pygments/formatters pygments/cmdline.py",
}
# Of Pygments, by which Rich colours tracebacks, one language and one style.
LANGUAGES = {"__init__", "_mapping", "default", "python", "special"}


def main() -> None:
    environment = Path(sys.argv[1])
    packages = next(environment.glob("lib/python3.*/site-packages"))
    report(packages, "installed")
    remove(path for path in list((environment / "bin").iterdir()) if not path.name.startswith(("python", "tocsin")))
    for purpose, patterns in UNUSED.items():
        remove(path for pattern in patterns.split() for path in list(packages.glob(pattern)))
        report(packages, f"without: {purpose}")
    remove(other_languages(packages / "pygments"))
    report(packages, "without: colours for other languages than Python")
    strip(packages)
    report(packages, "without: symbols of shared libraries")
    to_bytecode(packages)
    report(packages, "with bytecode for sources")


def report(packages: Path, what: str) -> None:
    size = sum(path.lstat().st_size for path in packages.rglob("*") if not path.is_dir())
    print(f"{size / 1e6:7.1f} MB {what}")


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # its folder may be gone


def other_languages(pygments: Path) -> Iterator[Path]:
    for folder in ("lexers", "styles"):
        yield from (path for path in list((pygments / folder).glob("*.py")) if path.stem not in LANGUAGES)


def strip(packages: Path) -> None:
    """Remove symbols that only a debugger reads. Libraries that auditwheel has moved (numpy.libs) do not survive it."""
    libraries = [path for path in packages.rglob("*.so") if not path.parent.name.endswith(".libs")]
    subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)


def to_bytecode(packages: Path) -> None:
    """Leave each module in one form, as applications that are frozen have it: its extension, or its bytecode.

    Both together are a third more, and nobody could write the bytecode later. Tracebacks keep their lines' numbers.
    """
    for path in list(packages.rglob("*.py")):
        is_extension = any(path.parent.glob(f"{path.stem}.*.so"))
        if is_extension or compileall.compile_file(path, quiet=1, legacy=True, stripdir=str(packages.parent)):
            path.unlink()


if __name__ == "__main__":
    main()
