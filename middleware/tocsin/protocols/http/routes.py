"""Routes as a configuration writes them, `POST /v1/models/{model}:predict`, and the matching of requests to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

_ROUTE: Final = re.compile(r"[A-Z]+ /\S*")
_CAPTURE: Final = re.compile(r"\{([a-z_]+)\}")


class Match(NamedTuple):
    """The route of a request, and what it captures of the path, by `path.NAME`."""

    route: str
    captured: Mapping[str, str]


_NOTHING: Final[Mapping[str, str]] = {}


def is_route(name: str) -> bool:
    """Whether a method's name is a route of HTTP rather than a method of gRPC."""
    return _ROUTE.fullmatch(name) is not None


class Route:
    """One route. `{name}` captures a part of the path, up to the next `/`. Raises ValueError where the text is not a
    route.
    """

    def __init__(self, name: str) -> None:
        if not is_route(name):
            raise ValueError(f"expected a route such as POST /v1/score, not '{name}'")
        self.name = name
        self.verb, _, self.path = name.partition(" ")
        self.captures = _CAPTURE.findall(self.path)
        if "{" in _CAPTURE.sub("", self.path) or "?" in self.path or len(set(self.captures)) < len(self.captures):
            raise ValueError(f"'{self.path}' must be a path, with parts captured as {{name}}, each name once")
        pieces = [
            f"(?P<{piece}>[^/]+?)" if at % 2 else re.escape(piece) for at, piece in enumerate(_CAPTURE.split(self.path))
        ]
        self._pattern = re.compile("".join(pieces))

    def match(self, path: str) -> Mapping[str, str] | None:
        """What the route captures of a path, None where it does not match."""
        match = self._pattern.fullmatch(path)
        return None if match is None else {f"path.{name}": unquote(value) for name, value in match.groupdict().items()}


class Routes:
    """All routes of a guard."""

    def __init__(self, names: Iterable[str]) -> None:
        routes = [Route(name) for name in names if is_route(name)]
        self._exact = {(route.verb, route.path): Match(route.name, _NOTHING) for route in routes if not route.captures}
        self._patterns = [route for route in routes if route.captures]

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def match(self, verb: str, path: str) -> Match | None:
        """The route of a request. `path` is as the caller sent it: percent-encoded and plain characters are the same,
        and the query is ignored.
        """
        path = path.partition("?")[0]
        match = self._match(verb, path)
        if match is None and "%" in path:
            match = self._match(verb, unquote(path))
        return match

    def _match(self, verb: str, path: str) -> Match | None:
        match = self._exact.get((verb, path))
        if match is not None:
            return match
        for route in self._patterns:
            if route.verb == verb and (captured := route.match(path)) is not None:
                return Match(route.name, captured)
        return None
