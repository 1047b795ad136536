"""A model server behind a real Envoy whose filter is what `tocsin attach` prints, or a change of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from benchmarks.harness.envoy import Envoy, attached_envoy
from benchmarks.harness.model_server import Model, model_server
from benchmarks.harness.parts import INFER, SIGNALS, STREAM_INFER, Running, far_away, inference, running, safe_traffic

from tocsin.configuration.config import Config

SAFE = safe_traffic(10, seed=3)
ANSWERS = {b"safe": inference(SAFE, slice(0, 1)), b"far": inference(far_away(1), slice(0, 1))}
KEY = "tocsin-verdict"


class Served(NamedTuple):
    """The parties of a test: Envoy, the processor, and the model server."""

    channel: grpc.Channel
    model: Model
    processor: Running
    envoy: Envoy

    def ask(
        self, request: bytes = b"safe", *metadata: tuple[str, str], seconds: float = 60
    ) -> tuple[bytes | None, Any]:
        """The response of a call of one message, None where there is none, and the call."""
        try:
            return self.channel.unary_unary(INFER).with_call(request, metadata=metadata, timeout=seconds)
        except grpc.RpcError as error:
            return None, error

    def stream(self, *requests: bytes, seconds: float = 60) -> tuple[list[bytes], Any]:
        """The responses of a stream, and the call."""
        call = self.channel.stream_stream(STREAM_INFER)(iter(requests), timeout=seconds)
        responses = []
        with suppress(grpc.RpcError):
            for response in call:
                responses.append(response)
        return responses, call

    def metric(self, line: str) -> float:
        """A sample of /metrics."""
        lines = [sample for sample in self.processor.metrics.splitlines() if sample.startswith(line + " ")]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def misfits(self, reason: str) -> float:
        return self.metric(f'tocsin_ext_proc_misfits_total{{reason="{reason}"}}')


def verdicts(call: Any) -> list[str]:
    """The verdicts in a call's trailers."""
    return [value for key, value in call.trailing_metadata() or () if key == KEY]


def eventually(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether a claim comes true within the time limit."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def configuration(bundle: Path, upstream: str, mode: str, **more: Any) -> Config:
    model = {"bundle": bundle, "signals": SIGNALS, **more.pop("model", {})}
    content = {"ext_proc": "127.0.0.1:0", "metrics": "127.0.0.1:0", "admin": None, "drain": "5s", **more}
    return Config(upstream=upstream, mode=mode, scoring_budget="60s", models={"digits": model}, **content)


@contextmanager
def served(bundle: Path, folder: Path, mode: str, envoy: dict[str, Any] | None = None, **more: Any) -> Iterator[Served]:
    """`envoy`: `settings` and `modes` of the filter that differ from what attach prints."""
    with model_server() as (model, address):
        model.answers = dict(ANSWERS)
        with running(configuration(bundle, address, mode, **more)) as processor:
            with attached_envoy(folder / "envoy", address, processor, **(envoy or {})) as started:
                with grpc.insecure_channel(
                    started.target, options=[("grpc.max_receive_message_length", -1)]
                ) as channel:
                    yield Served(channel, model, processor, started)
