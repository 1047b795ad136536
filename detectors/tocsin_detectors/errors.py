"""What can go wrong with detectors, each error saying what, where, and what to do.

DetectorError
├── SignalError    the data a detector was given
└── GraphError     a scorer's ONNX graph
"""


class DetectorError(ValueError):
    """The root of this package's errors."""


class SignalError(DetectorError):
    """A signal is missing, is not numeric, or has the wrong shape or values."""


class GraphError(DetectorError):
    """An ONNX graph is not one that a scorer can run."""


class SaturationWarning(UserWarning):
    """A score that is at its largest on safe responses already."""
