"""Types of settings: addresses, times, paths of signals and keys, each parsed from the text in the file."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import Url, core_schema

from tocsin.protocols.paths import SignalPath, signal_path

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)\s*$")
_HOST = re.compile(r"[^\s/@?#\[\],]+")  # a name or an IP address, an IPv6 one without its brackets
VERSION = "version"  # as a group
STREAM, CONNECTION = "stream", "connection"  # as sessions


class Address(NamedTuple):
    """Where to listen or connect: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: Any) -> Address:
    """Parse an address, HOST:PORT or unix:/PATH. Raises ValueError."""
    if isinstance(value, Address):
        return value
    text = str(value)
    if text.startswith("unix:") and len(text) > 5:
        return Address(path=text[5:])
    scheme, is_url, rest = text.partition("://")
    if is_url:
        place = rest.rpartition("@")[2].partition("/")[0]
        place = place if place.rpartition(":")[2].isdigit() else f"{place or 'HOST'}:PORT"
        secure = "; TLS is a setting of its own (upstream_tls)" if scheme in ("https", "grpcs") else ""
        raise ValueError(f"expected HOST:PORT or unix:/PATH, not a URL: write '{place}'{secure}")
    host, colon, port = text.rpartition(":")
    named = host.strip("[]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or not _HOST.fullmatch(named):
        raise ValueError(f"expected HOST:PORT or unix:/PATH, not '{text}'")
    return Address(named, int(port))


class _HttpSchemes:
    """Has pydantic's own URL take http:// and https:// alone. Its HttpUrl does the same, and imports what e-mail
    addresses and domains need as well.
    """

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: Any) -> core_schema.CoreSchema:
        del source, handler
        return core_schema.url_schema(
            max_length=2083,
            allowed_schemes=["http", "https"],
            serialization=core_schema.to_string_ser_schema(when_used="unless-none"),
        )


HttpAddress = Annotated[Url, _HttpSchemes]


def _seconds(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(str(value))
    if not match:
        raise ValueError(f"expected a time with its unit, such as 5ms or 30s, not '{value}'")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _key(value: Any) -> str:
    side, _, key = str(value).partition(".")
    if side == "request" and key:
        return f"request.{key}"
    if side != "metadata" or not re.fullmatch(r"[0-9a-z_.-]+", key):
        raise ValueError(f"expected metadata.KEY with a lower-case key, or request.PATH of a field, not '{value}'")
    return f"metadata.{key}"


def _session(value: Any) -> str:
    return str(value) if value in (STREAM, CONNECTION) else _key(value)


def _group(value: Any) -> str:
    return VERSION if value == VERSION else _key(value)


_TEXT = PlainSerializer(str, return_type=str)
AddressField = Annotated[
    Address,
    BeforeValidator(parse_address),
    _TEXT,
    WithJsonSchema({"type": "string", "examples": ["0.0.0.0:8001"]}),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(_seconds),
    PlainSerializer(lambda d: f"{d.total_seconds():g}s", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["5ms", "30s"]}),
]
SignalField = Annotated[
    SignalPath,
    BeforeValidator(signal_path),
    _TEXT,
    WithJsonSchema({"type": ["string", "object"], "examples": ["response.outputs.predict_proba"]}),
]
SessionField = Annotated[str, BeforeValidator(_session)]
GroupField = Annotated[str, BeforeValidator(_group)]
