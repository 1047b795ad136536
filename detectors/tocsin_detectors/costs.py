"""What each detector of a graph costs here and now: its part of the graph is cut out and timed by itself."""

from __future__ import annotations

from typing import Any

from tocsin_detectors.errors import GraphError
from tocsin_detectors.scorer import DETECTORS, FREE, SCORES, Scorer


def costs_by_detector(scorer: Scorer, rows: int) -> dict[str, float]:
    """Seconds a response of each detector alone, in batches of `rows`: what detectors share counts for each of them.

    Raises GraphError when the graph is not one that `compile` makes. Needs the package onnx.
    """
    if len(scorer.detectors) == 1:
        return {scorer.detectors[0]: scorer.cost(rows)}
    import onnx

    model = onnx.load_model_from_string(scorer.graph)
    makers = {output: node for node in model.graph.node for output in node.output}
    joined = makers[SCORES]
    while joined.op_type == "Identity":
        joined = makers[joined.input[0]]
    if joined.op_type != "Concat" or len(joined.input) != len(scorer.detectors):
        raise GraphError(f"'{SCORES}' does not join a column a detector, so they cannot be told apart")
    columns = list(joined.input)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    costs = {}
    for name, column in zip(scorer.detectors, columns, strict=True):
        alone = _alone(model, column)
        for key, value in ((DETECTORS, name), (FREE, facts.get(FREE, ""))):
            entry = alone.metadata_props.add()
            entry.key, entry.value = key, value
        costs[name] = Scorer(alone.SerializeToString()).cost(rows)
    return costs


def _alone(model: Any, column: str) -> Any:
    """The part of a model that computes one column of the scores, as a model with that column alone."""
    import onnx

    makers = {output: node for node in model.graph.node for output in node.output}
    needed, open_ = set(), [column]
    while open_:
        name = open_.pop()
        if name not in needed:
            needed.add(name)
            open_ += list(makers[name].input) if name in makers else []
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    del alone.metadata_props[:]
    for part, entries in (
        (alone.graph.node, [node for node in model.graph.node if set(node.output) & needed]),
        (alone.graph.input, [entry for entry in model.graph.input if entry.name in needed]),
        (alone.graph.initializer, [entry for entry in model.graph.initializer if entry.name in needed]),
    ):
        del part[:]
        part.extend(entries)
    alone.graph.node.append(onnx.helper.make_node("Concat", [column], [SCORES], axis=1))
    alone.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    return alone
