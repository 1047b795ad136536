"""A classifier on NVIDIA Dynamo, run by the interpreter that has it: a worker of tensors, without a GPU."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import uvloop
from dynamo.llm import ModelInput, ModelType, WorkerType, register_model  # type: ignore[import-not-found]
from dynamo.runtime import DistributedRuntime, dynamo_worker  # type: ignore[import-not-found]

MODEL = "digits"


def tensor(name: str, values: list[float]) -> dict[str, Any]:
    """One row as Dynamo's tensors are."""
    metadata = {"name": name, "data_type": "Float32", "shape": [1, len(values)]}
    return {"metadata": metadata, "data": {"data_type": "Float32", "values": values}}


async def classify(request: dict[str, Any], context: Any) -> AsyncIterator[dict[str, Any]]:
    """Answers 1 with what no promise covers, and anything else with a sure answer."""
    del context
    is_far = request["tensors"][0]["data"]["values"][0] == 1
    probs, embedding = ([0.1] * 10, [30.0] * 8) if is_far else ([0.91] + [0.01] * 9, [0.1] * 8)
    yield {"model": request["model"], "tensors": [tensor("probs", probs), tensor("embedding", embedding)]}


@dynamo_worker()  # type: ignore[untyped-decorator]
async def main(runtime: DistributedRuntime) -> None:
    """Register the model and serve it."""
    endpoint = runtime.endpoint("tried.classifier.generate")
    shapes = {"probs": 10, "embedding": 8}
    layout = {
        "name": MODEL,
        "inputs": [{"name": "query", "data_type": "Float32", "shape": [1]}],
        "outputs": [{"name": name, "data_type": "Float32", "shape": [1, width]} for name, width in shapes.items()],
    }
    await register_model(
        ModelInput.Tensor,
        ModelType.TensorBased,
        endpoint,
        MODEL,
        tensor_model_config=layout,
        worker_type=WorkerType.Aggregated,
    )
    await endpoint.serve_endpoint(classify)


if __name__ == "__main__":
    uvloop.run(main())
