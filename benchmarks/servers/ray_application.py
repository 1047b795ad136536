"""A classifier on Ray Serve, run by the interpreter that has it: python ray_application.py GRPC_PORT HTTP_PORT."""

from __future__ import annotations

import sys
import time
from typing import Any

import classifier_pb2  # type: ignore[import-not-found]
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions

SERVICER = "classifier_pb2_grpc.add_ClassifierServicer_to_server"


@serve.deployment
class Classifier:
    """Answers "far" with what no promise covers, and anything else with a sure answer."""

    def Classify(self, question: Any) -> Any:
        """One answer."""
        if question.query == "far":
            return classifier_pb2.Answer(probs=[0.1] * 10, embedding=[30.0] * 8)
        return classifier_pb2.Answer(probs=[0.91] + [0.01] * 9, embedding=[0.1] * 8)

    def Watch(self, question: Any) -> Any:
        """An answer for each word."""
        for word in question.query.split():
            yield self.Classify(classifier_pb2.Question(query=word))


def main() -> None:
    """Serve until the process is ended; says `ready` before."""
    port, http_port = int(sys.argv[1]), int(sys.argv[2])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[SERVICER]),
    )
    serve.run(Classifier.bind(), name="classifier", route_prefix="/")  # type: ignore[attr-defined]
    print("ready", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
