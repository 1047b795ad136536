"""What is installed: the version, whether it is compiled, and what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version

from tocsin import unscored  # one of the modules that are compiled, and the lightest


def is_compiled() -> bool:
    """Whether the interception path was compiled when this was built."""
    return not str(unscored.__file__).endswith(".py")


def version_line() -> str:
    """Such as `tocsin 0.1.0 (compiled), ONNX Runtime 1.27.0, Python 3.11.9`."""
    compiled = " (compiled)" if is_compiled() else ""
    runs_on = f"ONNX Runtime {version('onnxruntime')}, Python {platform.python_version()}"
    return f"tocsin {version('tocsin')}{compiled}, {runs_on}"
