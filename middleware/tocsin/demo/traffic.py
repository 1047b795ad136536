"""The demo's caller: Triton's client, as a user of a model server would use it."""

from __future__ import annotations

import time
import urllib.request
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from tocsin.demo.digits import Images

OUTPUTS = {"probs": "predict_proba", "logits": "logits", "hidden": "hidden"}


class Answer(NamedTuple):
    """One response: its bytes, the signals it shows, and the seconds it took."""

    content: bytes
    signals: dict[str, NDArray[np.float64]]
    seconds: float


class Caller:
    """Sends pictures to the digits model at an address. A context manager."""

    def __init__(self, address: str) -> None:
        import tritonclient.grpc as triton

        self._triton = triton
        self._client = triton.InferenceServerClient(address)

    def ask(self, image: Images, number: int) -> Answer:
        """The model's answer to one picture (64,)."""
        tensor = self._triton.InferInput("image", [1, 64], "FP32")
        tensor.set_data_from_numpy(image[None])
        started = time.perf_counter()
        result = self._client.infer("digits", [tensor], request_id=str(number))
        seconds = time.perf_counter() - started
        signals = {name: result.as_numpy(output)[0] for name, output in OUTPUTS.items()}
        signals["image"] = image
        return Answer(result.get_response().SerializeToString(deterministic=True), signals, seconds)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()


def alarms(metrics: str) -> int:
    """All alarms that Tocsin has counted so far, read where Prometheus would read them."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:  # our own port
        text: Any = answer.read().decode()
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tocsin_alarms_total"
    )
