"""The ordinary caller: one call after the other, some of them on a new connection; a line of JSON for each.

A line holds when the call began (seconds on the monotonic clock), the seconds it took, whether it came on a new
connection, and what was wrong: empty, `lost`, or `unjudged`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import grpc

import tocsin
from benchmarks.harness.parts import INFER
from benchmarks.siege.messages import FAR, OK

DEADLINE = 10.0
PAUSE = 0.005
EVERY = 20  # calls, of which one comes on a new connection
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
           ("grpc.max_reconnect_backoff_ms", 500)]  # fmt: skip


def wrong_with(channel: grpc.Channel, request: bytes, judges: bool) -> str:
    """What is wrong with the answer to a call: `far` answers are blocked where the relay enforces."""
    try:
        _, call = channel.unary_unary(INFER).with_call(request, timeout=DEADLINE)
    except grpc.RpcError as error:
        blocked = error.code() == grpc.StatusCode.PERMISSION_DENIED
        return "" if blocked and request == FAR and judges else f"lost ({error.code().name}: {error.details()})"
    verdict = tocsin.verdict(call)
    judged = verdict is not None and verdict.unscored is None
    return "unjudged" if judges and (not judged or request == FAR) else ""


def main() -> None:
    target, judges = sys.argv[1], sys.argv[2] == "enforce"
    number = 0
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt), grpc.insecure_channel(target, OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(60)
        while True:
            number += 1
            request, is_new = (FAR if number % 5 == 0 else OK), number % EVERY == 0
            began = time.monotonic()
            if is_new:
                with grpc.insecure_channel(target, OPTIONS) as new:
                    wrong = wrong_with(new, request, judges)
            else:
                wrong = wrong_with(channel, request, judges)
            print(json.dumps([began, time.monotonic() - began, is_new, wrong]), flush=True)
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
