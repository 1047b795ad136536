"""Which guarded methods a route of Envoy's reaches, and the path that Tocsin sees of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tocsin.gateways.document import Block, at, block
from tocsin.gateways.envoy_config import EnvoyRoute
from tocsin.gateways.needs import ReachableMethod

_CONDITIONS = ("headers", "query_parameters", "grpc", "runtime_fraction", "tls_context", "dynamic_metadata", "cookies")


class Reached(NamedTuple):
    """A guarded method behind a route: the path as callers send it, and as the model server gets it."""

    route: EnvoyRoute
    method: ReachableMethod
    sent: str
    forwarded: str
    is_guess: bool = False  # the route's rewriting cannot be undone here


def reached(routes: Sequence[EnvoyRoute], methods: Sequence[ReachableMethod]) -> Iterator[Reached]:
    """Every guarded method that some route reaches. A route behind one that takes a path for certain does not."""
    hosts: dict[str, list[EnvoyRoute]] = {}
    for route in routes:
        hosts.setdefault(route.name.rpartition("/")[0], []).append(route)
    for of_host in hosts.values():
        for method in methods:
            certain: dict[str, str] = {}
            for route in of_host:
                for sent, forwarded, is_guess in _paths(route, method):
                    if certain.get(sent, route.name) == route.name:  # of weighted clusters, all are reached
                        yield Reached(route, method, sent, forwarded, is_guess)
                    if _is_certain(route.match):
                        certain.setdefault(sent, route.name)


def _paths(route: EnvoyRoute, method: ReachableMethod) -> Iterator[tuple[str, str, bool]]:
    """Paths by which callers may reach a method through a route: as they send it, as the upstream gets it, and whether
    that is only a guess.
    """
    action = route.action
    prefix = str(route.match.get("prefix", route.match.get("path_separated_prefix", route.match.get("path", ""))))
    replaced = action.get("prefix_rewrite")
    if isinstance(replaced, str):
        if method.path.startswith(replaced):
            sent = prefix + method.path[len(replaced) :]
            if _takes(route.match, sent, sent):
                yield sent, method.path, False
        return
    is_rewritten = isinstance(action.get("regex_rewrite"), Block) or "path_rewrite_policy" in action
    if is_rewritten:
        yield prefix or method.path, method.path, True
    elif _takes(route.match, method.path, method.literal):
        yield method.path, method.path, False


def _takes(match: Block, path: str, literal: str) -> bool:
    """Whether a route may match a path; `literal` is the path up to where anything may stand."""
    folds = match.get("case_sensitive") is False
    if folds:
        path, literal = path.lower(), literal.lower()

    def text(key: str) -> str:
        value = str(match[key])
        return value.lower() if folds else value

    is_open = literal != path
    if "prefix" in match:
        return path.startswith(text("prefix")) or (is_open and text("prefix").startswith(literal))
    if "path" in match:
        return path == text("path") or (is_open and text("path").startswith(literal))
    if "path_separated_prefix" in match:
        wanted = text("path_separated_prefix")
        return path == wanted or path.startswith(wanted + "/") or (is_open and wanted.startswith(literal))
    if "safe_regex" in match:
        try:
            return is_open or re.fullmatch(str(at(match, "safe_regex", "regex")), path) is not None
        except re.error:
            return True
    return True


def _is_certain(match: Block) -> bool:
    """Whether a route takes every request of a path that it matches."""
    has_path = any(key in match for key in ("prefix", "path", "path_separated_prefix"))
    return has_path and not any(block(match).get(condition) for condition in _CONDITIONS)
