"""The model server of the soak: every kind of call, on a port that is given."""

from __future__ import annotations

import sys
import time

from tests.model_server import model_server
from tests.parts import inference, safe_traffic

SAFE = safe_traffic(40, seed=11)

if __name__ == "__main__":
    with model_server(f"127.0.0.1:{sys.argv[1]}") as (model, _):
        model.answers = {b"safe %d" % row: inference(SAFE, slice(row, row + 1)) for row in range(40)}
        while True:
            time.sleep(3_600)
