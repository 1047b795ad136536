"""Claims about tensors in a field of bytes: read as their libraries wrote them; nothing is unpickled."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from safetensors.numpy import save

import tocsin
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.protocols.containers import LARGEST_HEADER, LARGEST_MEMBER, tensor_in
from tocsin.protocols.descriptors import pool
from tocsin.protocols.paths import signal_path
from tocsin.unscored import Unscored
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

KINDS = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
METHOD = "/transport.AsyncInference/GetActions"
Actions = GetMessageClass(pool("lerobot_transport").FindMessageTypeByName("transport.Actions"))


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 4), (1,), (), (2, 0, 3), (2, 3, 4)])
def test_tensors_are_read_as_their_libraries_wrote_them(kind: str, shape: tuple[int, ...]) -> None:
    values = np.asarray(np.random.default_rng(0).integers(0, 100, shape)).astype(kind)
    both = {"actions": values, "other": np.ones(5)}
    for container, content in (
        ("safetensors", save(both, metadata={"format": "np"})),
        ("npz", npz(**both)),
        ("npz", npz(compressed=True, **both)),
        ("npz", npz(actions=np.array(values, order="F"), other=values.astype(values.dtype.newbyteorder(">")))),
    ):
        read = tensor_in(container, content, "actions")
        assert read.dtype == np.float32 and read.shape == shape
        np.testing.assert_array_equal(read, values.astype(np.float32))


def test_brain_floats_are_read() -> None:
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    content = safetensors(header, (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes())
    assert tensor_in("safetensors", content, "x").tolist() == [1.5, -2.0]


class Exploit:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/tocsin-was-here"),)


def test_nothing_is_ever_unpickled() -> None:
    target = Path("/tmp/tocsin-was-here")
    target.unlink(missing_ok=True)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for container in ("safetensors", "npz"):
            with pytest.raises(Unscored, match="a Python pickle, which is never unpickled") as why:
                tensor_in(container, pickle.dumps(Exploit(), protocol), "actions")
            assert why.value.reason == "undecodable"
    for content in (npz(actions=np.array([Exploit()], object)), pickle.dumps(Exploit(), 0), pickle.dumps(Exploit(), 1)):
        with pytest.raises(Unscored, match=r"never unpickled|no npz") as why:
            tensor_in("npz", content, "actions")
        assert why.value.reason == "undecodable"
    assert not target.exists()


def described(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "undecodable"),
        (b"short", "undecodable"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "undecodable"),
        ((LARGEST_HEADER + 1).to_bytes(8, "little") + bytes(LARGEST_HEADER + 1), "undecodable"),
        (safetensors(b"[" * 100_000), "undecodable"),
        (safetensors([1]), "undecodable"),
        (safetensors(b'{"a": 1, "a": 2}'), "undecodable"),
        (safetensors(b'{"a": {"dtype": "F32", "dtype": "F64", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
         "undecodable"),
        (safetensors({"a": 7}), "undecodable"),
        (safetensors({"b": {}}), "missing_signal"),
        (safetensors({"__metadata__": {"a": "b"}}), "missing_signal"),
        (safetensors(described("BYTES"), bytes(8)), "dtype"),
        (safetensors(described(shape=(3,)), bytes(8)), "shape"),
        (safetensors(described(offsets=(4, 12)), bytes(8)), "shape"),
        (safetensors(described(offsets=(8, 0)), bytes(8)), "shape"),
        (safetensors(described(shape=(-2,)), bytes(8)), "shape"),
        (safetensors(described(shape=(10**30, 0), offsets=(0, 0))), "shape"),
        (safetensors(described(shape=[1] * 40, offsets=(0, 4)), bytes(4)), "shape"),
        (safetensors(described(shape=(2.0,)), bytes(8)), "shape"),
        (safetensors(described(shape=(True, 2)), bytes(8)), "shape"),
    ],
)  # fmt: skip
def test_broken_safetensors_are_unscored(content: bytes, reason: str) -> None:
    with pytest.raises(Unscored) as why:
        tensor_in("safetensors", content, "a")
    assert why.value.reason == reason


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def zipped(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "undecodable"),
        (b"PK\3\4damaged", "undecodable"),
        (zipped(("b.npy", npy("(1,)", data=bytes(4)))), "missing_signal"),
        (zipped(("a.npy", b"no array")), "undecodable"),
        (zipped(("a.npy", npy("(2,)", data=bytes(4)))), "shape"),
        (zipped(("a.npy", npy("(-1,)", data=bytes(4)))), "shape"),
        (zipped(("a.npy", npy("(1000000000000,)", data=bytes(4)))), "shape"),
        (zipped(("a.npy", npy("(__import__('os'),)", data=bytes(4)))), "undecodable"),
        (zipped(("a.npy", npy("(2,)", "'<U3'", bytes(24)))), "dtype"),
        (zipped(("a.npy", npy("(1,)", "'<c8'", bytes(8)))), "dtype"),
        (zipped(("a.npy", npy("(1,)", "[('x', '<f4')]", bytes(4)))), "dtype"),
        (zipped(("a.npy", npy("(1,)", "'|O'", bytes(8)))), "undecodable"),
        (zipped(("a.npy", npy("(1,)", data=bytes(4), version=b"\x09\0"))), "undecodable"),
        (zipped(("a.npy", npy("(1,)", data=bytes(4))), ("a.npy", npy("(1,)", data=bytes(4)))), "undecodable"),
        (zipped(("a.npy", npy("(1,)", data=bytes(4))), ("a", npy("(1,)", data=bytes(4)))), "undecodable"),
        (zipped(("a.npy", bytes(LARGEST_MEMBER + 1))), "too_large"),
    ],
)  # fmt: skip
def test_broken_npz_is_unscored(content: bytes, reason: str) -> None:
    with pytest.raises(Unscored) as why:
        tensor_in("npz", content, "a")
    assert why.value.reason == reason


def test_every_byte_may_be_wrong() -> None:
    for container, content in (("safetensors", save({"a": np.ones(3, np.float32)})), ("npz", npz(a=np.ones(3)))):
        for at in range(len(content)):
            for bit in (0x01, 0x10, 0x80):
                broken = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
                try:
                    assert tensor_in(container, broken, "a").dtype == np.float32
                except Unscored:
                    continue


def test_a_policy_servers_chunks_are_judged_and_its_pickles_are_not(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    safe = Observations({"actions": random.normal(size=(300, 6, 4, 2))})
    scorer = compile([parse("sample_variance")], fit_on=safe)
    promise = calibrate(scorer(safe), {"warning": 0.1, "critical": 0.02}, detectors=scorer.detectors)
    Bundle(scorer, promise, "m").write(tmp_path / "robot.tocsin")

    def judged(place: dict[str, str], content: bytes) -> Any:
        model = {"bundle": tmp_path / "robot.tocsin", "protocol": "lerobot", "signals": {"actions": place}}
        guard = tocsin.Guard.open(Config(metrics=None, admin=None, models={"m": model}))
        call = guard.call(METHOD, {})
        assert call is not None
        call.on_response_message(Actions(data=content).SerializeToString())
        guard.judge([call])
        return call.verdict

    in_file, in_archive = ({kind: "response.data", "tensor": "actions"} for kind in ("safetensors", "npz"))
    for spread, severity in ((1.0, None), (4.0, "critical")):
        chunk = (spread * safe["actions"][7]).reshape(1, 6, 4, 2)
        for place, content in ((in_file, save({"actions": chunk})), (in_archive, npz(actions=chunk))):
            verdict = judged(place, content)
            assert (verdict.unscored, verdict.severity) == (None, severity)
    assert judged(in_file, pickle.dumps([1.0])).unscored == "undecodable"
    assert judged(in_file, save({"other": np.ones(3)})).unscored == "missing_signal"
    assert judged(in_file, save({"actions": np.ones(5)})).unscored in ("shape", "rows")
    assert judged(in_file, b"").unscored == "missing_signal"


def test_places_are_checked_at_start(tmp_path: Path) -> None:
    for place in ({"safetensors": "response.data"}, {"npz": "response.data", "tensor": ""},
                  {"npz": "response.data", "tensor": "a", "dtype": "FP32"}):  # fmt: skip
        with pytest.raises(ValueError, match="write a tensor in a field of bytes as"):
            signal_path(place)
    model = {"protocol": "lerobot", "signals": {"x": {"npz": "response.nothing", "tensor": "a"}}}
    with pytest.raises(ConfigError, match="has no field 'nothing'"):
        tocsin.Guard.open(Config(metrics=None, admin=None, models={"m": model}))
