"""What tests of a sidecar share: a model server's answers, TLS, and a line of its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from benchmarks.harness.parts import (
    Running,
    far_away,
    inference,
    safe_traffic,
)

ANSWERS = {b"safe": inference(safe_traffic(4, seed=3), slice(0, 1)), b"far": inference(far_away(1), slice(0, 1))}


def metric(relay: Running, line: str) -> float:
    samples = [text for text in relay.metrics.splitlines() if text.startswith(line + " ")]
    return float(samples[0].rpartition(" ")[2]) if samples else 0.0


def credentials(ca: Path, pair: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    certificate, key = pair or (None, None)
    return grpc.ssl_channel_credentials(
        ca.read_bytes(), key and key.read_bytes(), certificate and certificate.read_bytes()
    )


def tls(pair: tuple[Path, Path], client_ca: Path | None = None) -> dict[str, Any]:
    return {"certificate": pair[0], "key": pair[1], **({"client_ca": client_ca} if client_ca else {})}
