"""The line protocol of the peers, the programs in `peers/`: one JSON object a line.

A client (`PEER client FOLDER`) reads scenarios and writes what came of each; messages are files of the folder:

    {"target": "127.0.0.1:1234", "background": [CALL...], "settle_ms": 500, "call": CALL,
     "repeat": 1, "rate": 0, "parallel": 1}
    CALL: {"method": "/package.Service/Method", "kind": "unary" | "down" | "up" | "both", "send": ["request.bin"],
           "metadata": [["x-key", "value"], ["x-key-bin", "base64"]], "timeout_ms": 120000, "compress": false,
           "cancel_after": 0, "wait_for_ready": false}

One connection serves a scenario. Calls in the background are begun and sent, but not read; after `settle_ms` the call
is made `repeat` times by `parallel` workers, together `rate` a second (0: as fast as they can); then the background is
read.

    {"background": [OBSERVATION...], "outcomes": [[OBSERVATION, how often]...]}
    OBSERVATION: {"messages": ["SIZE:SHA-256"...], "code": 0, "text": "", "initial": [[key, value]...], "trailing": ...}

A server (`PEER server FOLDER`) writes {"port": N}, and does with a call what the call's metadata asks for:

    do-answer FILE   what it answers with              do-count N      how many answers (1)
    do-each          an answer to each request         do-pause-ms N   a pause after each answer
    do-wait-ms N     a pause before the answers        do-status N     the status at the end (0)
    do-bare          nothing but trailers              do-early        does not read the requests
    do-gate NAME     reads nothing before it is open   do-open NAME    opens it
    do-compress      answers in gzip                   do-reset N      RST_STREAM right behind the last answer
    do-http N        plain HTTP of status N, with     do-type TYPE     as content type: the answer is the body
    do-truncate      ten bytes of answers are missing
    do-tag TAG       remembers how the call ended      do-ending TAG   answers with that: finished, cancelled

Metadata that begins with x- comes back in initial and trailing metadata; trailers also carry `received-messages`
(number, bytes and hash of the requests), `has-deadline` and a binary value.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
UNGUARDED = "/interop.Peer/Call"
ENDING = "/interop.Peer/Ending"


@dataclass(frozen=True)
class Call:
    """One call of a client; `asks` is what the server is asked for, without `do-`."""

    method: str = INFER
    kind: str = "unary"
    send: Sequence[str] = ("request.bin",)
    metadata: Sequence[tuple[str, str | bytes]] = ()
    asks: dict[str, str] = field(default_factory=dict)
    timeout_ms: int = 120_000  # 90 MB within windows of 64 KB take half a minute where every round trip takes 20 ms
    compress: bool = False
    cancel_after: int = 0
    wait_for_ready: bool = False

    def json(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        metadata = [*self.metadata, *((f"do-{key}", value) for key, value in content.pop("asks").items())]
        content["metadata"] = [
            (key, base64.b64encode(value).decode() if isinstance(value, bytes) else value) for key, value in metadata
        ]
        return content
