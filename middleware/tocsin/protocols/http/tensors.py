"""Routes of the Open Inference Protocol v2: tensors in JSON, or after it as binary data.

With the binary tensor data extension a body is a document, whose length is in the header
`inference-header-content-length`, followed by the bytes of the tensors. It is read as one document that has those bytes
as base64.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

from tocsin.protocols.http.method import JsonMethod
from tocsin.protocols.http.parts import elements_of, encoded, members_of, object_of
from tocsin.protocols.http.reader import JsonReader
from tocsin.protocols.paths import SignalPath
from tocsin.protocols.rows import Shapes
from tocsin.unscored import Unscored

LENGTH_HEADER: Final = "inference-header-content-length"
_PLACES: Final = {"request": "inputs", "response": "outputs"}
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_ERROR: Final = {"error": "{message}"}


class InferRoute(JsonMethod):
    """An infer route. Raises ValueError where the text is not a route."""

    def __init__(self, route: str) -> None:
        version = "path.version" if "{version}" in route else "response.model_version"
        super().__init__(route, model="path.model", version=version, error=_ERROR)

    def reader(self, signals: Mapping[str, SignalPath], shapes: Shapes) -> JsonReader:
        """A reader of these signals. Raises ValueError where a path names no tensor."""
        return super().reader({name: _members(path) for name, path in signals.items()}, shapes)

    def whole_document(self, content: bytes, headers: Mapping[str, str], side: str) -> bytes:
        """The message in a body with these header fields. Raises Unscored `undecodable`."""
        declared = headers.get(LENGTH_HEADER)
        if declared is None:
            return content
        length = int(declared) if _NUMBER.fullmatch(declared) else -1
        if not 0 <= length <= len(content):
            raise Unscored("undecodable", f"the {side} has the {LENGTH_HEADER} '{declared}', and {len(content)} bytes")
        document, rest = content[:length], content[length:]
        members = members_of(document, side)
        tensors, at = [], 0
        for tensor in elements_of(members.get(_PLACES[side], b"[]"), side):
            parts = members_of(tensor, side)
            size = _binary_size(parts, side)
            if size is not None:
                if at + size > len(rest):
                    raise Unscored("undecodable", f"the {side} ends inside of a tensor's binary data")
                parts["data"] = encoded(b64encode(rest[at : at + size]).decode())
                at += size
            tensors.append(object_of(parts))
        if at != len(rest):
            raise Unscored("undecodable", f"{len(rest) - at} bytes follow the binary data of the {side}'s tensors")
        return object_of({**members, _PLACES[side]: b"[" + b",".join(tensors) + b"]"})


def _members(path: SignalPath) -> SignalPath:
    """Where the values of a tensor stand, and its datatype and shape."""
    place, _, name = path.path.partition(".")
    if path.dtype or path.choices or path.sequences or place != _PLACES[path.side] or not name:
        raise ValueError(f"expected request.inputs.NAME or response.outputs.NAME, not '{path}'")
    tensor = f"{place}[{name}]"
    return path._replace(path=f"{tensor}.data", dtype=f"{tensor}.datatype", shape=f"{tensor}.shape")


def _binary_size(tensor: Mapping[str, bytes], side: str) -> int | None:
    """How many bytes of binary data a tensor has, None where its data is in the document."""
    parameters = tensor.get("parameters", b"null")
    size: Any = members_of(parameters, side).get("binary_data_size") if parameters.strip() != b"null" else None
    if size is None:
        return None
    if "data" in tensor or not _NUMBER.fullmatch(size.decode("latin-1")):
        raise Unscored("undecodable", f"a tensor of the {side} says that it is binary data, and has other data too")
    return int(size)
