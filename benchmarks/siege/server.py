"""The model server of the siege, on a port that is given: it answers what a request's id asks for."""

from __future__ import annotations

import sys
import time

from google.protobuf.message import DecodeError

from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import far_away, inference, safe_traffic
from benchmarks.siege.messages import SAFE
from tocsin.protocols import oip

ROWS = 400_000


class ById(dict[bytes, bytes]):
    """Answers by the id of a request, which may hold more than the ones that are known."""

    def get(self, request: bytes, default: bytes = b"") -> bytes:  # type: ignore[override]
        """The answer to a request, or else the default."""
        try:
            return self[oip.Request.FromString(request).id.encode()]
        except (DecodeError, KeyError):
            return default


if __name__ == "__main__":
    with model_server(f"127.0.0.1:{sys.argv[1]}") as (model, _):
        model.answers = ById(
            {
                b"ok": inference(SAFE, slice(0, 1)),
                b"far": inference(far_away(1), slice(0, 1)),
                b"wide": inference(safe_traffic(2_000), slice(0, 2_000)),
            }
        )
        if len(sys.argv) > 2:
            model.answers[b"giant"] = inference(safe_traffic(ROWS), slice(0, ROWS))
        while True:
            time.sleep(3_600)
