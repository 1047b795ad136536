"""Dispersion of the eigenvalues of answers' similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.answers.sampled import OfAnswers

if TYPE_CHECKING:
    from spox import Var


class EigenvalueDispersion(OfAnswers):
    """-log sum_i l_i^2 for the eigenvalues l_i of the answers' cosines divided by S, in [0, log S]: how many different
    things are said, on a logarithmic scale.

    Reads the embeddings of S answers to one question, (n, S, D). Nothing is learnt. 0 when all agree, log S when no
    two have anything in common; the exponential is an effective number of answers. Needs no threshold of similarity, as
    clusters do. Flat signals need `samples`, S.

    Source: Friedman and Dieng (2023), the Vendi score, arXiv:2210.02410, of order 2 as in Pasarkar and Dieng (2024),
    arXiv:2310.12952.
    """

    name: ClassVar[str] = "eigenvalue_dispersion"
    source: ClassVar[str] = "Friedman and Dieng 2023, arXiv:2210.02410; Pasarkar and Dieng 2024, arXiv:2310.12952"

    def graph(self, *signals: Var) -> Var:
        """(n, S D) -> (n, 1). The squares of a symmetric matrix's entries sum to those of its eigenvalues."""
        import spox.opset.ai.onnx.v18 as op

        flat = op.flatten(self.cosines(signals[0]), axis=1)
        squares = op.reduce_sum_square(flat, op.const(np.array([1])), keepdims=1)
        return op.neg(op.log(op.mul(squares, op.const(np.float32(1 / self.answers**2)))))
