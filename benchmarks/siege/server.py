"""The model server of the siege: safe answers, one far away, and a giant one, on a port that is given."""

from __future__ import annotations

import sys
import time

from tests.model_server import model_server
from tests.parts import far_away, inference, safe_traffic

GIANT = 400_000  # rows

if __name__ == "__main__":
    with model_server(f"127.0.0.1:{sys.argv[1]}") as (model, _):
        safe = inference(safe_traffic(400), slice(0, 1))
        model.answers = {b"ok": safe, b"far": inference(far_away(1), slice(0, 1))}
        if len(sys.argv) > 2:
            model.answers[b"giant"] = inference(safe_traffic(GIANT), slice(0, GIANT))
        while True:
            time.sleep(3_600)
