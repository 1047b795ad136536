"""How S samples spread over the cells of a grid, counted in an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from spox import Var

FEW = 1024  # cells that there is a table of; samples that spread over more are sorted
MULTIPLES = 40  # bits of the random numbers that distinguish cells when they are many
NOTHING = 1e-30  # stands for a count of 0, whose logarithm there is none


def count_logs(indices: Var, highest: Var, samples: int, groups: int, width: int) -> Var:
    """Sum over cells of c log c, (n, groups), c being the number of samples in a cell, in nats.

    `indices`: whole numbers from 0, (n, S, groups width), and the highest of them among samples (n, 1, groups width).
    In each group, samples share a cell when all of its `width` indices are the same. A row with indices that are not
    finite is NaN, and touches no other.
    """
    import spox.opset.ai.onnx.v18 as op

    most = op.add(op.reduce_max(highest, keepdims=0), op.const(np.float32(1)))
    too_many = op.const(np.float32(FEW + 1))
    most = op.where(op.less(most, too_many), most, too_many)
    size = op.pow(most, op.const(np.float32(width)))
    block = np.kron(np.eye(groups), np.ones((width, 1)))
    powers = np.tile(np.arange(width), groups)[:, None]

    def by_table() -> list[Var]:
        """Cells are few: each has a number, and a count in a table."""
        strides = op.mul(op.pow(most, op.const(powers.astype(np.float32))), op.const(block.astype(np.float32)))
        numbers = op.transpose(op.matmul(indices, strides), perm=[0, 2, 1])
        in_table = op.where(op.less(numbers, size), numbers, op.const(np.float32(0)))  # the rest is not finite
        count = op.slice(op.shape(indices), op.const(np.array([0])), op.const(np.array([1])))
        cells = op.reshape(op.cast(size, to=np.int64), op.const(np.array([1])))
        shape = op.concat([count, op.const(np.array([groups])), cells], axis=0)
        return [_sum(in_table, numbers, shape, op.const(np.float32(NOTHING)))]

    def by_order() -> list[Var]:
        """Equal cells come to stand side by side, runs of them are numbered, and the number says whom to count with."""
        columns = block * np.tile(multiples(width), groups)[:, None]
        numbers = op.matmul(op.cast(indices, to=np.float64), op.const(columns))
        order, _ = op.top_k(op.transpose(numbers, perm=[0, 2, 1]), op.const(np.array([samples])))
        start, second, last, end = (op.const(np.array([at])) for at in (0, 1, samples - 1, samples))
        before, after = (
            op.slice(order, start, last, op.const(np.array([2]))),
            op.slice(order, second, end, op.const(np.array([2]))),
        )
        runs = op.cumsum(op.cast(op.less(after, before), to=np.float32), op.const(np.array(2)))
        alone = np.eye(1, samples, dtype=np.float32)[0] + np.float32(NOTHING)
        both = op.cast(op.add(before, after), to=np.float32)
        return [_sum(runs, both, op.shape(order), op.const(alone))]

    return op.if_(op.less_or_equal(size, op.const(np.float32(FEW))), then_branch=by_table, else_branch=by_order)[0]


def multiples(width: int) -> NDArray[np.int64]:
    """Random whole numbers (width,): sums of so many multiples of them tell cells apart, all but surely."""
    return np.random.default_rng(0).integers(1, 2**MULTIPLES, width)


def _sum(cells: Var, finite: Var, shape: Var, more: Var) -> Var:
    """The sum of c log c, over counts c of each number in (n, groups, S), in a table of that shape, with `more` in it.

    What is not finite in `finite`, of the shape of `cells`, makes its row NaN.
    """
    import spox.opset.ai.onnx.v18 as op

    none = op.constant_of_shape(shape, value=np.zeros(1, np.float32))
    ones = op.add(op.mul(finite, op.const(np.float32(0))), op.const(np.float32(1)))
    counts = op.add(op.scatter_elements(none, op.cast(cells, to=np.int64), ones, axis=2, reduction="add"), more)
    return op.reduce_sum(op.mul(counts, op.log(counts)), op.const(np.array([2])), keepdims=0)
