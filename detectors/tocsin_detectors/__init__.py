"""What a score is: detectors fitted on safe responses, run as one ONNX graph."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
