"""The model server of the siege: safe answers, one far away, and a giant one, on a port that is given."""

from __future__ import annotations

import sys
import time

from tests.model_server import model_server
from tests.parts import far_away, inference, safe_traffic

from benchmarks.siege.messages import FAR, GIANT, OK, SAFE, WIDE

ROWS = 400_000

if __name__ == "__main__":
    with model_server(f"127.0.0.1:{sys.argv[1]}") as (model, _):
        model.answers = {OK: inference(SAFE, slice(0, 1)), FAR: inference(far_away(1), slice(0, 1))}
        model.answers[WIDE] = inference(safe_traffic(2_000), slice(0, 2_000))
        if len(sys.argv) > 2:
            model.answers[GIANT] = inference(safe_traffic(ROWS), slice(0, ROWS))
        while True:
            time.sleep(3_600)
