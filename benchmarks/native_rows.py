"""Whether the Tocsin that is installed scores a small bundle's rows without ONNX Runtime, as a compiled wheel must, and
has all else that is in C.

python benchmarks/native_rows.py     # needs onnx and spox; ends with 1 where ONNX Runtime scores all rows

For environments that have a wheel and no checkout on their path: `cibuildwheel` runs it on each wheel that it builds.
"""

from __future__ import annotations

import sys

import numpy as np

from tocsin.protocols.http.scanner import load_scanner
from tocsin.protocols.native_envelope import load_envelope
from tocsin_calibration.thresholds.native_scales import load_scales
from tocsin_detectors import Entropy, Mahalanobis, Observations, compile


def main() -> None:
    """Fit two detectors, and print how many rows at a time are scored natively."""
    random = np.random.default_rng(0)
    safe = Observations({"probs": random.dirichlet(np.full(10, 0.3), 300), "embedding": random.normal(size=(300, 8))})
    scorer = compile([Entropy(), Mahalanobis()], fit_on=safe)
    scorer.warm()  # which tries native evaluation beside ONNX Runtime
    if not scorer.native_rows:
        sys.exit("no rows are scored natively: this build is not compiled, or its evaluation of small graphs is broken")
    in_c = {"scanner": load_scanner(), "envelope": load_envelope(), "scales": load_scales()}
    if missing := [name for name, part in in_c.items() if part is None]:
        sys.exit(f"this build lacks parts that are in C: {', '.join(missing)}")
    print(f"up to {scorer.native_rows} rows are scored natively")


if __name__ == "__main__":
    main()
