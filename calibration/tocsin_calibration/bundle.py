"""The bundle: what serving needs, in one file that cannot execute code.

A zip of three members, `scorer.onnx`, `calibration.npz` (numpy arrays, pickle refused) and `manifest.json`. The
digest is the SHA-256 of the manifest's content together with the members' own digests, and is checked on reading.
The same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tocsin_calibration.content import Arrays, arrays_of, facts_of, promise_from
from tocsin_calibration.errors import BundleError, CalibrationFault
from tocsin_calibration.promise import Promise
from tocsin_calibration.risk.decision import RiskPolicy
from tocsin_detectors import GraphError, Scorer

SCHEMA = 2
GRAPH, ARRAYS, MANIFEST = "scorer.onnx", "calibration.npz", "manifest.json"
LIMITS = {GRAPH: 512 << 20, ARRAYS: 512 << 20, MANIFEST: 1 << 20}  # bytes, unpacked
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A scorer, its promise (None until calibrated), what answers are worth (None without labels), and where it comes
    from.

    `made` holds facts for people and audits: tool versions, data files and their digests, times.
    """

    scorer: Scorer
    promise: Promise | None
    model: str = ""
    detectors: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    risk: RiskPolicy | None = None

    def write(self, path: Path | str) -> Bundle:
        """Write the bundle atomically and return it with its digest."""
        path = Path(path)
        members = {GRAPH: self.scorer.graph}
        arrays = {} if self.promise is None else arrays_of(self.promise)
        risk, more = (None, {}) if self.risk is None else self.risk.content()
        if arrays or more:
            members[ARRAYS] = _pack({**arrays, **more})
        manifest = {
            "schema": SCHEMA,
            "model": self.model,
            "signals": {name: {"width": width, "dtype": "float32"} for name, width in self.scorer.signals.items()},
            "detectors": list(self.detectors) or [{"name": name} for name in self.scorer.detectors],
            "calibration": None if self.promise is None else facts_of(self.promise),
            "risk": risk,
            "made": self.provenance,
            "members": {name: _sha256(content) for name, content in members.items()},
        }
        digest = _digest(manifest)
        members[MANIFEST] = json.dumps({"digest": digest, **manifest}, indent=1).encode()
        staged = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members.items():
                    archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
            staged.replace(path)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise BundleError(f"{path}: cannot be written: {error.strerror or error}") from error
        return replace(self, digest=digest)

    @classmethod
    def read(cls, path: Path | str, *, threads: int = 1) -> Bundle:
        """Read a bundle, checking sizes, schema, digests and that graph and calibration fit each other.

        Raises BundleError, naming the file and what is wrong with it.
        """
        path = Path(path)
        try:
            members = _members(path)
            manifest = _manifest(members)
            scorer = Scorer(members[GRAPH], threads=threads)
            arrays = _arrays(manifest, members)
            facts, policy = manifest["calibration"], manifest["risk"]
            promise = None if facts is None else promise_from(facts, arrays, scorer.detectors, manifest["digest"])
            _require_inputs(promise, scorer)
            _require_classes(promise, scorer)
            risk = None if policy is None else RiskPolicy.from_content(policy, arrays, len(scorer.detectors))
            model, detectors, provenance = str(manifest["model"]), tuple(manifest["detectors"]), dict(manifest["made"])
            if not all(isinstance(facts, dict) for facts in (*detectors, *provenance.values())):
                raise TypeError("detectors and made hold facts by name")
        except (CalibrationFault, GraphError) as error:
            raise BundleError(f"{path}: {error}") from error
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise BundleError(f"{path}: lacks or garbles a field ({error}); make the bundle anew") from error
        except RecursionError as error:
            raise BundleError(f"{path}: is nested too deeply to be a bundle") from error
        except MemoryError as error:
            raise BundleError(f"{path}: does not fit into the memory that is left") from error
        return cls(scorer, promise, model, detectors, provenance, manifest["digest"], risk)

    def require_promise(self, path: Path | str = "the bundle") -> Promise:
        """The promise. Raises BundleError when the bundle was fitted but not calibrated."""
        if self.promise is None:
            raise BundleError(f"{path}: fitted but not calibrated; run `tocsin calibrate {path} SAFE_DATA` first")
        return self.promise


def _require_inputs(promise: Promise | None, scorer: Scorer) -> None:
    """Raises BundleError when inputs are to be watched by signals that the graph does not read, or of other widths."""
    if promise is None or promise.inputs is None:
        return
    widths = [scorer.signals.get(name, 0) for name in promise.inputs.signals]
    if 0 in widths or sum(widths) != len(promise.inputs.centre):
        raise BundleError("watches inputs by signals that its graph does not read so")


def _require_classes(promise: Promise | None, scorer: Scorer) -> None:
    """Raises BundleError when a signal is to name classes whose width in the graph is another."""
    classes = None if promise is None else promise.classes
    if classes is not None and scorer.signals.get(classes.signal, classes.width) != classes.width:
        raise BundleError(f"has classes by {classes.width} numbers of '{classes.signal}', unlike its graph")


def _members(path: Path) -> dict[str, bytes]:
    """The members of a bundle's zip file, each within its limit. Raises BundleError."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            for info in infos:
                if info.filename not in LIMITS:
                    raise BundleError(f"holds '{info.filename}', which no bundle has")
                if info.file_size > LIMITS[info.filename]:
                    raise BundleError(f"'{info.filename}' unpacks to {info.file_size:,} bytes, over the limit of "
                                      f"{LIMITS[info.filename]:,}")  # fmt: skip
            if len({info.filename for info in infos}) < len(infos):
                raise BundleError("holds a member twice")
            members = {info.filename: _unpack_member(archive, info) for info in infos}
    except FileNotFoundError:
        raise BundleError(
            "there is no such file; `tocsin record`, which needs none, `tocsin fit` and `tocsin calibrate` make one"
        ) from None
    except (
        OSError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        EOFError,
        RuntimeError,
    ) as error:
        raise BundleError(f"is not a bundle, or is damaged ({error})") from error
    for name in (GRAPH, MANIFEST):
        if name not in members:
            raise BundleError(f"lacks '{name}'; it is not a bundle, or was cut short")
    return members


def _unpack_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read a member, never beyond the size it declares, whatever its compressed bytes would grow to."""
    try:
        with archive.open(info) as stream:
            content = stream.read(info.file_size + 1)
    except zlib.error as error:
        raise BundleError(f"'{info.filename}' is damaged ({error})") from error
    if len(content) != info.file_size:
        raise BundleError(f"'{info.filename}' is not of the size it declares")
    return content


def _manifest(members: dict[str, bytes]) -> dict[str, Any]:
    """The manifest, once the digests in it match the members. Raises BundleError."""
    try:
        manifest: dict[str, Any] = json.loads(members[MANIFEST])
    except ValueError as error:
        raise BundleError(f"the manifest is not JSON ({error})") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        raise BundleError("the manifest names no schema; it is not a bundle")
    if manifest["schema"] != SCHEMA:
        raise BundleError(f"has schema {manifest['schema']}, but this version reads schema {SCHEMA}; upgrade tocsin or "
                          f"make the bundle anew")  # fmt: skip
    digests = {name: _sha256(content) for name, content in members.items() if name != MANIFEST}
    claimed = manifest.pop("digest", "")
    if digests != manifest.get("members") or _digest(manifest) != claimed:
        raise BundleError("does not match its digest: it was changed or damaged after it was made")
    return {"digest": claimed, **manifest}


def _arrays(manifest: dict[str, Any], members: dict[str, bytes]) -> Arrays:
    if manifest["calibration"] is None and manifest["risk"] is None:
        return {}
    if ARRAYS not in members:
        raise BundleError(f"claims a calibration but lacks '{ARRAYS}'")
    return _unpack(members[ARRAYS])


def _pack(arrays: Arrays) -> bytes:
    """An npz with fixed timestamps, so that equal arrays are equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), member.getvalue())
    return buffer.getvalue()


def _unpack(content: bytes) -> Arrays:
    """The arrays of a bundle, without NaN. Raises BundleError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > LIMITS[ARRAYS]:
                raise BundleError(f"'{ARRAYS}' unpacks to more than {LIMITS[ARRAYS]:,} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            read = {name: np.asarray(arrays[name], np.float64) for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise BundleError(f"'{ARRAYS}' is damaged ({error})") from error
    if broken := [name for name, array in read.items() if np.isnan(array).any()]:
        raise BundleError(f"'{ARRAYS}' holds NaN in '{broken[0]}'")
    return read


def _digest(manifest: dict[str, Any]) -> str:
    return "sha256:" + _sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
