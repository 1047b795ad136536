"""Why a graph is not evaluated natively."""

from __future__ import annotations


class Unsupported(ValueError):
    """The graph has an operator, a shape or a size that native evaluation does not know. ONNX Runtime runs it."""
