"""Isolation forest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tocsin_detectors.detector import fitted

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

SAMPLE = 100_000  # rows that the trees' own samples are drawn from
EULER = 0.5772156649


class IsolationForest:
    """2^(-E[h(x)] / c), in (0, 1]: how few random cuts it takes to set a response apart from safe ones.

    Reads an embedding or features, (n, D), on any scale. h is the depth at which x ends up in one of `trees` random
    trees, each grown on `sample` safe responses, and c the usual depth. Works for tables of features, where axes have a
    meaning of their own; weak in learnt embeddings, where no single axis tells.

    Source: Liu, Ting and Zhou (2008), doi:10.1109/ICDM.2008.17.
    """

    name: ClassVar[str] = "isolation_forest"
    source: ClassVar[str] = "Liu, Ting and Zhou 2008, doi:10.1109/ICDM.2008.17"

    def __init__(self, signal: str = "embedding", *, trees: int = 100, sample: int = 256) -> None:
        if trees < 1 or sample < 2:
            raise ValueError(f"trees must be at least 1 and sample at least 2, not {trees} and {sample}")
        self.reads = (signal,)
        self.trees, self.sample = trees, sample
        self._nodes: dict[str, list[Any]] | None = None
        self._usual = 1.0

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Grow the trees. Raises SignalError when the signal is not finite."""
        from sklearn.ensemble import IsolationForest as Forest

        safe.require_finite(self.reads[0])
        rows = safe.sample(SAMPLE, seed=seed)[self.reads[0]]
        grown = Forest(n_estimators=self.trees, max_samples=min(self.sample, len(rows)), random_state=seed).fit(rows)
        self._usual = float(_depth(np.array([min(self.sample, len(rows))]))[0])
        nodes: dict[str, list[Any]] = {key: [] for key in ("tree", "node", "feature", "value", "mode", "yes", "no")}
        nodes |= {key: [] for key in ("leaf_tree", "leaf_node", "depth")}
        for number, tree in enumerate(grown.estimators_):
            _write_down(nodes, number, tree.tree_)
        self._nodes = nodes
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.ml.v3 as ml
        import spox.opset.ai.onnx.v18 as op

        nodes = fitted(self._nodes, self.name)
        depth = ml.tree_ensemble_regressor(
            signals[0],
            aggregate_function="AVERAGE",
            n_targets=1,
            nodes_treeids=nodes["tree"],
            nodes_nodeids=nodes["node"],
            nodes_featureids=nodes["feature"],
            nodes_values=nodes["value"],
            nodes_modes=nodes["mode"],
            nodes_truenodeids=nodes["yes"],
            nodes_falsenodeids=nodes["no"],
            target_treeids=nodes["leaf_tree"],
            target_nodeids=nodes["leaf_node"],
            target_ids=[0] * len(nodes["depth"]),
            target_weights=nodes["depth"],
        )
        return op.pow(op.const(np.float32(2)), op.mul(depth, op.const(np.float32(-1 / self._usual))))


def _write_down(nodes: dict[str, list[Any]], number: int, tree: Any) -> None:
    """A tree of scikit-learn as ONNX wants it; a leaf weighs its depth and the depth that its rows would still need."""
    depth = np.zeros(tree.node_count)
    for node in range(tree.node_count):  # parents come before their children
        for child in (tree.children_left[node], tree.children_right[node]):
            if child >= 0:
                depth[child] = depth[node] + 1
    leaf = tree.children_left < 0
    full = depth + _depth(tree.n_node_samples)
    # scikit-learn sends x <= threshold left, in float64; the largest float32 not above it cuts in the same place.
    value = tree.threshold.astype(np.float32)
    value = np.where(value > tree.threshold, np.nextafter(value, np.float32(-np.inf)), value)
    nodes["tree"] += [number] * tree.node_count
    nodes["node"] += range(tree.node_count)
    nodes["feature"] += np.maximum(tree.feature, 0).tolist()
    nodes["value"] += np.where(leaf, 0, value).tolist()
    nodes["mode"] += ["LEAF" if end else "BRANCH_LEQ" for end in leaf]
    nodes["yes"] += np.maximum(tree.children_left, 0).tolist()
    nodes["no"] += np.maximum(tree.children_right, 0).tolist()
    nodes["leaf_tree"] += [number] * int(leaf.sum())
    nodes["leaf_node"] += np.flatnonzero(leaf).tolist()
    nodes["depth"] += full[leaf].tolist()


def _depth(rows: np.ndarray) -> np.ndarray:
    """The average depth of an unsuccessful search in a tree of so many rows: 2 H(n - 1) - 2 (n - 1) / n."""
    n = np.maximum(rows, 3).astype(float)
    return np.where(rows > 2, 2 * (np.log(n - 1) + EULER) - 2 * (n - 1) / n, np.where(rows == 2, 1.0, 0.0))
