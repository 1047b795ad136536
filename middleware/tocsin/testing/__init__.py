"""For tests: a model server and a guard on free ports, and the contract that every detector keeps."""

from tocsin.testing.detector_example import example_signals
from tocsin.testing.detectors import check_detector
from tocsin.testing.guards import ServedGuard, serve_guard
from tocsin.testing.models import ServedModel, infer_response, serve_model

__all__ = [
    "ServedGuard",
    "ServedModel",
    "check_detector",
    "example_signals",
    "infer_response",
    "serve_guard",
    "serve_model",
]
