"""A large graph's weights in memory that processes of one machine share.

ONNX Runtime writes the graph as it has optimised it, and its weights as it has packed them, into two files once; every
process then maps the weights instead of holding a copy. The scores are the same, and as quick.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tocsin_detectors.onnx_runtime import onnxruntime

FOLDER = "TOCSIN_SHARED_GRAPHS"  # the environment variable that names a folder of this process and its children alone
LEAST = 1 << 20  # bytes of a graph that are worth it
GRAPH, WEIGHTS = "graph.onnx", "weights.bin"


def open_session(graph: bytes, options: onnxruntime.SessionOptions) -> tuple[onnxruntime.InferenceSession, bool]:
    """A session, and whether its weights are shared: where FOLDER is set, the graph large, and the folder writable."""
    from tocsin_detectors.onnx_runtime import onnxruntime  # a tenth of a second, which only who has a bundle needs

    folder = os.environ.get(FOLDER)
    if folder and len(graph) >= LEAST:
        try:
            written = _written(graph, Path(folder), options)
        except OSError:  # a full or read-only disk: then each process has its own
            written = None
        if written is not None:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # that was done
            return onnxruntime.InferenceSession(str(written), options, providers=["CPUExecutionProvider"]), True
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]), False


def _written(graph: bytes, folder: Path, options: onnxruntime.SessionOptions) -> Path | None:
    """The graph's file, written by whoever comes first; None when ONNX Runtime could not."""
    from tocsin_detectors.onnx_runtime import onnxruntime

    final = folder / hashlib.sha256(graph).hexdigest()
    if not final.exists():
        staged = Path(tempfile.mkdtemp(dir=folder))
        making = onnxruntime.SessionOptions()
        making.intra_op_num_threads, making.log_severity_level = options.intra_op_num_threads, 4
        making.optimized_model_filepath = str(staged / GRAPH)
        for name, value in (
            ("optimized_model_external_initializers_file_name", WEIGHTS),
            ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
            ("save_external_prepacked_constant_initializers", "1"),
        ):
            making.add_session_config_entry(f"session.{name}", value)
        try:
            onnxruntime.InferenceSession(graph, making, providers=["CPUExecutionProvider"])
            staged.rename(final)
        except Exception:  # its own kinds; or another process was quicker
            shutil.rmtree(staged, ignore_errors=True)
    return final / GRAPH if (final / WEIGHTS).exists() else None
