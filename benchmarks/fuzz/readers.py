"""Readers of bytes that need no guard: each takes its case, refuses it in words, or has failed."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import yaml

from benchmarks.fuzz.outcomes import Failure, Refused
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.grpc_wire.deframer import MessageDeframer
from tocsin.http2.frames import FrameError, header_block, read_settings, unpadded
from tocsin.http2.headers import HeaderError, HeaderFilter, HeaderReader, remove_header
from tocsin.memory import MemoryBudget
from tocsin.opinions import replies
from tocsin.opinions.lost import Lost
from tocsin.protocols.containers import CONTAINERS, LARGEST_MEMBER, tensor_in
from tocsin.protocols.descriptors import pool_of
from tocsin.protocols.metadata import number_in
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict
from tocsin_calibration import Bundle, CalibrationFault

CONFIGURATION = yaml.safe_dump(
    {
        "listen": "0.0.0.0:8001",
        "mode": "enforce",
        "fail": "closed",
        "scoring_budget": "5ms",
        "max_message": "1MiB",
        "models": {"m": {"signals": {"probs": "response.outputs.p"}, "on_alarm": {"critical": {"action": "block"}}}},
    }
).encode()


def headers(case: bytes) -> None:
    reader = HeaderReader(HeaderFilter((":path", "grpc-status", "x-session")))
    for read in (
        reader.read,
        lambda block: remove_header(block, "content-length", 28),
        HeaderReader(HeaderFilter((":path",)), stateful=True).read_fields,
    ):
        with contextlib.suppress(HeaderError):
            read(case)


def messages(case: bytes) -> None:
    memory = MemoryBudget(1 << 16)
    for keeps in (False, True):
        assembler = MessageDeframer(1 << 15, memory.open(lambda: None), keeps=keeps)
        for at in range(0, len(case), 7 + len(case) // 5):
            for message in assembler.feed(case[at : at + 7 + len(case) // 5]):
                if message.content is not None and len(message.content) > 1 << 15:
                    raise Failure("a message over the limit came out")
        assembler.forget()
        if memory.remaining != 1 << 16:
            raise Failure(f"{(1 << 16) - memory.remaining} bytes of messages were not given back")


def frames(case: bytes) -> None:
    for read in (read_settings, unpadded, lambda payload: header_block(0x28, payload)):
        with contextlib.suppress(FrameError):
            read(case)


def containers() -> list[bytes]:
    """A tensor in either container."""
    values, npz = np.arange(12, dtype=np.float32).reshape(3, 4), io.BytesIO()
    np.savez_compressed(npz, actions=values)
    header = json.dumps({"actions": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode()
    return [len(header).to_bytes(8, "little") + header + values.tobytes(), npz.getvalue()]


def contained(case: bytes) -> None:
    for container in CONTAINERS:
        try:
            values = tensor_in(container, case, "actions")
        except Unscored:
            continue
        if values.dtype != np.float32 or values.nbytes > 4 * max(len(case), LARGEST_MEMBER):
            raise Failure(f"{values.dtype} of {values.nbytes} bytes")


def judged_replies() -> list[bytes]:
    """What a judge and an embedder say."""
    tops = [{"token": "5", "logprob": -0.1}, {"token": " 5", "logprob": -3.0}]
    echoed = {"text_offset": [0, 2, 6], "token_logprobs": [None, -0.5, -2.0], "content": [{"top_logprobs": tops}]}
    chat = {"choices": [{"message": {"content": "5"}, "logprobs": echoed}]}
    return [json.dumps(reply).encode() for reply in (chat, {"data": [{"embedding": [0.5, -1.0, 2.0]}]})]


def judge_reply(case: bytes) -> None:
    """Each of what may be read of a reply is finite, or the reply is lost."""
    try:
        reply = json.loads(case)
    except (ValueError, RecursionError):
        raise Refused from None
    lost = 0
    for read in (replies.first_tokens, replies.message_text, replies.embedding, echoed_behind_two):
        try:
            value = read(reply)
        except Lost:
            lost += 1
            continue
        if isinstance(value, float | np.ndarray) and not np.isfinite(value).all():
            raise Failure(f"read as {value}")
    if lost == 4:
        raise Refused


def echoed_behind_two(reply: object) -> float:
    """The log-probability behind the first two characters."""
    return replies.echoed_logprob(reply, 2, 9)


def scored_text(case: bytes) -> None:
    try:
        number = number_in(case.decode("latin-1"), "'x'")
    except Unscored:
        raise Refused from None
    if not abs(number) <= 3.5e38:
        raise Failure(f"{number} from {case!r}")


def verdicts(case: bytes) -> None:
    try:
        Verdict.from_metadata(case)
    except ValueError:
        raise Refused from None


def descriptors(case: bytes) -> None:
    try:
        pool_of(case)
    except ValueError:
        raise Refused from None


class Bundles:
    """Files that say they are bundles."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.tocsin"

    def feed(self, case: bytes) -> None:
        self._path.write_bytes(case)
        try:
            Bundle.read(self._path)
        except CalibrationFault:
            raise Refused from None


class Configurations:
    """Files that say they are configurations."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.yaml"

    def feed(self, case: bytes) -> None:
        self._path.write_bytes(case)
        try:
            Config.load(self._path)
        except ConfigError:
            raise Refused from None
