"""What pydantic finds wrong with a configuration, in the words of its settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

OF_A_UNION = re.compile(r"literal\[.*\]|int|float|bool|str|list\[.*\]")  # how pydantic names a type that it tried


def joined_problems(problems: Iterable[Any]) -> list[dict[str, Any]]:
    """The problems, those of the types that one setting may have as one: their place loses the type's name."""
    joined: dict[tuple[Any, ...], dict[str, Any]] = {}
    listed = [dict(problem) for problem in problems]
    literal = {tuple(p["loc"][:-1]) for p in listed if p["loc"] and str(p["loc"][-1]).startswith("literal[")}
    for problem in listed:
        place = tuple(problem["loc"])
        if place[:-1] in literal and OF_A_UNION.fullmatch(str(place[-1])):
            problem["loc"] = place = place[:-1]
        if place in joined and place in literal:
            joined[place]["msg"] += f", or {problem['msg'].removeprefix('Input should be ')}"
        else:
            joined[(*place, len(joined)) if place in joined else place] = problem
    return list(joined.values())


def no_such_setting(place: Sequence[str], schema: Mapping[str, Any]) -> str:
    """What to say of a setting that there is not, at its place in the file: the nearest there is."""
    parts = schema.get("$defs", {}).values()
    names = schema["properties"] if len(place) == 1 else {n for part in parts for n in part.get("properties", {})}
    near = get_close_matches(place[-1], sorted(names), 1)
    meant = f" (did you mean '{near[0]}'?)" if near else ""
    return f"there is no such setting{meant}; `tocsin config schema` lists them"
