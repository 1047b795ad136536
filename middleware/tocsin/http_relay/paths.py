"""The guarded route that some server may find at a path, though it is spelled in another way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from tocsin.protocols.http.routes import Route, is_route

KEPT_PATHS, LONGEST_PATH = 1_024, 256  # spellings that are remembered, and characters of such a one
MOST_DECODINGS = 3  # a proxy may decode a path, and so may the server behind it


class RoutePaths:
    """Finds routes as the most generous server would: whatever the case, with escapes decoded more than once, without
    parameters, empty segments, `.` and `..`, and with or without a slash at the end.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._routes = [Route(name) for name in names if is_route(name)]
        self._patterns = [(route, _pattern(route.path)) for route in self._routes]
        self._spellings: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._routes)

    def spelled(self, verb: str, path: str) -> str:
        """A verb and a path as the route writes them, `POST /v1/score/cats`; empty where there is no such route."""
        key = verb, path
        spelled = self._spellings.get(key)
        if spelled is None:
            spelled = self._spell(verb.upper(), plain_path(path))
            if len(path) <= LONGEST_PATH:
                if len(self._spellings) >= KEPT_PATHS:
                    self._spellings.clear()
                self._spellings[key] = spelled
        return spelled

    def _spell(self, verb: str, path: str) -> str:
        for route, pattern in self._patterns:
            if route.verb == verb and (match := pattern.fullmatch(path)) is not None:
                spelled = route.path
                for name, value in match.groupdict().items():
                    spelled = spelled.replace("{" + name + "}", value)
                return f"{verb} {spelled}"
        return ""


def _pattern(path: str) -> re.Pattern[str]:
    pieces = re.split(r"\{([a-z_]+)\}", path.rstrip("/") or "/")
    parts = [f"(?P<{piece}>[^/]+?)" if at % 2 else re.escape(piece) for at, piece in enumerate(pieces)]
    return re.compile("".join(parts), re.IGNORECASE)


def plain_path(path: str) -> str:
    """A path as the most generous server reads it, but for its case."""
    for _ in range(MOST_DECODINGS):
        if "%" not in path:
            break
        path = unquote(path, encoding="latin-1")
    segments: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        name = segment.partition(";")[0].strip()
        if name == "..":
            del segments[-1:]
        elif name and name != ".":
            segments.append(name)
    return "/" + "/".join(segments)
