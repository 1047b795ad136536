"""The method that a `:path` calls. Servers and proxies read some paths more generously than they are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

KEPT_PATHS: Final = 1_024  # paths that are remembered,
LONGEST_PATH: Final = 256  # and characters of such a path
MOST_DECODINGS: Final = 3  # a proxy may decode a path, and so may the server behind it
ALWAYS_PASS: Final = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)

_SPACE: Final = "".join(map(chr, range(0x21))) + "\x7f"


class MethodPaths:
    """Tells which guarded method some server may find at a path.

    A path means a method when its last two segments name it, whatever is before them, after escapes are decoded and
    without query, fragment, parameters, empty segments, `.` and `..`, in upper or lower case.
    """

    def __init__(self, methods: Iterable[str]) -> None:
        self._methods = {_last_two(method): method for method in methods}
        self._method_of_path: dict[str, str] = {}

    def method(self, path: str) -> str:
        """The guarded method, such as `/package.Service/Method`; empty where there is none."""
        method = self._method_of_path.get(path)
        if method is None:
            method = self._methods.get(_last_two(path), "")
            if len(path) <= LONGEST_PATH:
                if len(self._method_of_path) >= KEPT_PATHS:
                    self._method_of_path.clear()
                self._method_of_path[path] = method
        return method


class AllowedMethods:
    """The methods that pass with `unguarded: refuse` too: those configured as `/SERVICE/METHOD` or `/SERVICE/*`, health
    and reflection.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        names = frozenset(allowed)
        self._methods = frozenset(name for name in names if not name.endswith("/*"))
        self._services = (*ALWAYS_PASS, *(name[:-1] for name in names - self._methods))

    def allows(self, path: str) -> bool:
        """Whether the method at a path passes."""
        return path in self._methods or path.startswith(self._services)


def _last_two(path: str) -> str:
    path = _without_query(path)
    for _ in range(MOST_DECODINGS):
        if "%" not in path:
            break
        path = _without_query(unquote(path, encoding="latin-1"))
    segments: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        name = segment.partition(";")[0].strip(_SPACE)
        if name == "..":
            del segments[-1:]
        elif name and name != ".":
            segments.append(name)
    return "/".join(segments[-2:]).lower()


def _without_query(path: str) -> str:
    return path.partition("?")[0].partition("#")[0]
