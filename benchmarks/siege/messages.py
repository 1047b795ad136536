"""What callers of the siege ask: each request says by its id what the model server is to answer."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.parts import far_away, safe_traffic
from tocsin.protocols import oip

SAFE = safe_traffic(400)


def request(name: str, image: np.ndarray, note: str = "") -> bytes:
    """A ModelInferRequest with one tensor of one row."""
    message = oip.Request(model_name="digits", id=name)
    tensor = message.inputs.add(name="image", datatype="FP32")
    tensor.shape.extend([1, image.size])
    if note:
        tensor.parameters["note"].string_param = note
    message.raw_input_contents.append(image.astype("<f4").tobytes())
    return bytes(message.SerializeToString())


SAFE_IMAGE = np.asarray(SAFE["embedding"])[0]
OK = request("ok", SAFE_IMAGE)  # a safe answer
FAR = request("far", np.asarray(far_away(1)["embedding"])[0])  # one that is to be blocked
WIDE = request("wide", SAFE_IMAGE)  # one of 2,000 rows
GIANT = request("giant", SAFE_IMAGE)  # one of 400,000 rows
