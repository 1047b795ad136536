"""Letting a NaN or an infinity in a signal show in the score, where comparisons and cut-offs would lose it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spox import Var


def showing(score: Var, signal: Var) -> Var:
    """The score, (n, 1), made NaN in the rows whose signal, (n, width), is not finite."""
    import spox.opset.ai.onnx.v18 as op

    nothing = op.mul(op.reduce_sum(signal, op.const(np.array([1])), keepdims=1), op.const(np.float32(0)))
    return op.add(score, nothing)
