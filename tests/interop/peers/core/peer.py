"""A gRPC client or server on C-core: `peer.py client FOLDER` or `peer.py server FOLDER`; the line protocol is in
`tests.interop.protocol`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
STUBS = {"unary": "unary_unary", "down": "unary_stream", "up": "stream_unary", "both": "stream_stream"}


def digest(message: bytes) -> str:
    return f"{len(message)}:{hashlib.sha256(message).hexdigest()}"[:24]


def pairs(metadata: Any) -> list[list[str]]:
    """Metadata as JSON: binary values in base64."""
    return sorted(
        ([key, base64.b64encode(value).decode() if key.endswith("-bin") else value] for key, value in metadata or ()),
        key=lambda pair: pair[0],
    )


class Client:
    def __init__(self, folder: Path, scenario: dict[str, Any]) -> None:
        self._folder = folder
        self._scenario = scenario
        self._read = threading.Event()  # set when what is left unread is to be read

    def run(self) -> dict[str, Any]:
        scenario = self._scenario
        options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(scenario["target"], options) as channel, futures.ThreadPoolExecutor(64) as pool:
            background = [pool.submit(self._call, channel, call, self._read.wait) for call in scenario["background"]]
            if background:
                time.sleep(scenario["settle_ms"] / 1e3)
            try:
                outcomes = self._repeat(channel, pool)
            finally:
                self._read.set()
            return {"background": [future.result() for future in background], "outcomes": outcomes}

    def _repeat(self, channel: grpc.Channel, pool: futures.Executor) -> list[Any]:
        scenario = self._scenario
        numbers = iter(range(scenario["repeat"]))
        begin, lock = time.monotonic(), threading.Lock()

        def work() -> Counter[str]:
            counts: Counter[str] = Counter()
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return counts
                if scenario["rate"]:
                    time.sleep(max(0.0, begin + number / scenario["rate"] - time.monotonic()))
                counts[json.dumps(self._call(channel, scenario["call"]))] += 1

        counts: Counter[str] = Counter()
        for worker in [pool.submit(work) for _ in range(scenario["parallel"])]:
            counts += worker.result()
        return [[json.loads(line), count] for line, count in counts.items()]

    def _call(
        self, channel: grpc.Channel, call: dict[str, Any], before_reading: Callable[[], Any] | None = None
    ) -> Any:
        metadata = [(k, base64.b64decode(v) if k.endswith("-bin") else v) for k, v in call["metadata"]]
        sent = ((self._folder / name).read_bytes() for name in call["send"])
        stub = getattr(channel, STUBS[call["kind"]])(call["method"])
        options: dict[str, Any] = {"metadata": metadata, "timeout": call["timeout_ms"] / 1e3}
        if call["compress"]:
            options["compression"] = grpc.Compression.Gzip
        if call["wait_for_ready"]:
            options["wait_for_ready"] = True
        messages: list[str] = []
        request = sent if call["kind"] in ("up", "both") else next(sent)
        if call["kind"] in ("unary", "up"):
            running = stub.future(request, **options)
            if before_reading is not None:
                before_reading()
            if running.exception() is None and running.result() is not None:  # None: OK without a message
                messages.append(digest(running.result()))
        else:
            running = stub(request, **options)
            if before_reading is not None:
                before_reading()
            try:
                for message in running:
                    messages.append(digest(message))
                    if len(messages) == call["cancel_after"]:
                        running.cancel()
                        break
            except grpc.RpcError:
                pass
        return {
            "messages": messages,
            "code": running.code().value[0],
            "text": running.details() or "",
            "initial": pairs(running.initial_metadata()),
            "trailing": pairs(running.trailing_metadata()),
        }


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._endings: dict[str, str] = {}

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._handle)

    def _handle(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        instructions = dict(context.invocation_metadata())
        done = threading.Event()
        finished: list[bool] = []

        def ended() -> None:
            done.set()
            if "do-tag" in instructions:
                self._endings[instructions["do-tag"]] = "finished" if finished else "cancelled"

        context.add_callback(ended)
        if "do-ending" in instructions:
            yield self._ending(instructions["do-ending"]).encode()
        else:
            yield from self._answer(instructions, requests, context, done)
        if not done.is_set():
            finished.append(True)

    def _answer(
        self, instructions: dict[str, str], requests: Iterator[bytes], context: Any, done: Any
    ) -> Iterator[bytes]:
        if "do-open" in instructions:
            self._gates[instructions["do-open"]].set()
        entries = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        if "do-compress" in instructions:
            context.set_compression(grpc.Compression.Gzip)
        if "do-bare" not in instructions:
            context.send_initial_metadata(entries)
        if "do-gate" in instructions:
            while not done.is_set() and not self._gates[instructions["do-gate"]].wait(0.02):
                pass
        count = total = 0
        hashes = hashlib.sha256()
        answer = (self._folder / instructions["do-answer"]).read_bytes() if "do-answer" in instructions else b""
        if "do-early" not in instructions:
            for request in requests:
                count, total = count + 1, total + len(request)
                hashes.update(hashlib.sha256(request).digest())
                if "do-each" in instructions:
                    yield answer
        if done.wait(int(instructions.get("do-wait-ms", 0)) / 1e3):
            return
        if not {"do-bare", "do-each", "do-early"} & instructions.keys():
            for _ in range(int(instructions.get("do-count", 1))):
                yield answer
                if done.wait(int(instructions.get("do-pause-ms", 0)) / 1e3):
                    return
        context.set_trailing_metadata(
            (
                *entries,
                ("received-messages", f"{count}:{total}:{hashes.hexdigest()[:12]}"),
                ("has-deadline", "true" if (context.time_remaining() or 1e9) < 1e6 else "false"),
                ("answer-bin", b"\0\xff\x80"),
            )
        )
        if "do-status" in instructions:
            code = next(code for code in grpc.StatusCode if code.value[0] == int(instructions["do-status"]))
            context.set_code(code)
            context.set_details("details: 100% schlecht, ü and \n more")

    def _ending(self, tag: str) -> str:
        for _ in range(100):
            if tag in self._endings:
                return self._endings[tag]
            time.sleep(0.05)
        return "unknown"


def main(role: str, folder: Path) -> None:
    if role == "server":
        server = grpc.server(futures.ThreadPoolExecutor(64), options=UNLIMITED)
        server.add_generic_rpc_handlers((Server(folder),))
        print(json.dumps({"port": server.add_insecure_port("127.0.0.1:0")}), flush=True)
        server.start()
        server.wait_for_termination()
    for line in sys.stdin:
        print(json.dumps(Client(folder, json.loads(line)).run()), flush=True)


main(sys.argv[1], Path(sys.argv[2]))
