"""ONNX Runtime, imported with its telemetry off: `from tocsin_detectors.onnx_runtime import onnxruntime`.

From 1.29 on, importing it on Linux writes a device id and a database below ~/.cache, and half a minute later asks DNS
for a collector's address, unless ORT_DISABLE_TELEMETRY is set before. So this module is the only one that imports it.
"""

from __future__ import annotations

import os

if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

# A program that had imported it before this module has its telemetry begun; this keeps events of Tocsin's sessions out.
onnxruntime.disable_telemetry_events()

__all__ = ["onnxruntime"]
