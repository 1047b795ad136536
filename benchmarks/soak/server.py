"""The model server of the soak: every kind of call, on a port that is given.

Once a thousand requests wait for it, grpcio's server cancels new ones, whoever sends them, more of them the more wait,
and all of them from three thousand on. Callers that begin calls and reset them bring it there, with a relay or without
one; what others see then is chance, and nothing can be compared. So it takes as many as come.
"""

from __future__ import annotations

import sys
import time

from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import inference, safe_traffic

SAFE = safe_traffic(40, seed=11)
NO_BOUND = (1 << 31) - 1  # requests
PENDING = [(f"grpc.server.max_pending_requests{which}", NO_BOUND) for which in ("", "_hard_limit")]

if __name__ == "__main__":
    with model_server(f"127.0.0.1:{sys.argv[1]}", options=PENDING) as (model, _):
        model.answers = {b"safe %d" % row: inference(SAFE, slice(row, row + 1)) for row in range(40)}
        while True:
            time.sleep(3_600)
