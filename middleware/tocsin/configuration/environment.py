"""Settings from the environment: TOCSIN_UPSTREAM, TOCSIN_MODELS__DIGITS__BUNDLE. They override those of the file.

Two underscores separate levels. Names of settings are case-insensitive. A name that a user has chosen, such as a
model's, is the one in the file where both differ only in case and in characters that a variable's name cannot hold.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tocsin.errors import ConfigError

PREFIX, STEP = "TOCSIN_", "__"
OTHERS = ("TOCSIN_LOG", "TOCSIN_COMPILE", "TOCSIN_CONFIG", "TOCSIN_SHARED_GRAPHS")  # of Tocsin's, but no settings

# Kubernetes gives every container such variables for each Service of its namespace, be it called tocsin or tocsin-x.
_SERVICE_LINK = re.compile(
    r"TOCSIN(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


class Override(NamedTuple):
    """One variable: its name, the path of the setting, and the value."""

    variable: str
    place: tuple[str, ...]
    value: Any


def overrides(
    environment: Mapping[str, str], content: Mapping[str, Any], settings: Iterable[str]
) -> tuple[dict[str, Any], list[Override]]:
    """The settings of the environment, nested and as a list. `content` is the file's, `settings` the known names at the
    top level.

    Raises ConfigError naming a variable that is not a setting, or matches several.
    """
    names = set(settings)
    result: dict[tuple[str, ...], Override] = {}
    for variable, text in sorted(environment.items()):
        upper = variable.upper()
        if not upper.startswith(PREFIX) or upper in OTHERS or _SERVICE_LINK.fullmatch(upper):
            continue
        place = _setting_path(variable, content, names)
        value = _value(text)
        other = result.get(place)
        if other is not None and other.value != value:
            raise ConfigError(f"{other.variable} and {variable} both set {'.'.join(place)}, and differ: keep one")
        result[place] = Override(variable, place, value)
    nested: dict[str, Any] = {}
    for variable, place, value in sorted(result.values(), key=lambda override: len(override.place)):
        _set_value(nested, place, value, variable)
    return nested, list(result.values())


def _setting_path(variable: str, content: Mapping[str, Any], names: set[str]) -> tuple[str, ...]:
    """Where in the configuration a variable's value belongs. Raises ConfigError where there is no such setting."""
    first, *rest = variable[len(PREFIX) :].split(STEP)
    top = first.lower()
    if top not in names:
        near = difflib.get_close_matches(top, sorted(names), 1)
        meant = f"; is {PREFIX}{near[0].upper()} meant?" if near else ""
        raise ConfigError(
            f"{variable}: there is no setting '{top}'{meant} (variables that begin with {PREFIX} override the file; "
            f"`tocsin config schema` lists the settings)"
        )
    place = [top]
    inside = content.get(top)
    for name in rest:
        place.append(_name(variable, name, inside))
        inside = inside.get(place[-1]) if isinstance(inside, Mapping) else None
    return tuple(place)


def _name(variable: str, name: str, inside: Any) -> str:
    """The name that a level means: the matching one of the file, else the variable's own."""
    names = [key for key in inside if isinstance(key, str)] if isinstance(inside, Mapping) else []
    alike = [key for key in names if _as_variable(key) == _as_variable(name)]
    if name in names or len(alike) == 1:
        return name if name in names else alike[0]
    if alike:
        listed = " and ".join(f"'{key}'" for key in alike)
        raise ConfigError(f"{variable}: '{name}' may mean {listed}: write the name as it stands in the file")
    return name.lower() if name.isupper() else name


def _as_variable(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _value(text: str) -> Any:
    """Null and JSON lists and objects are parsed; everything else stays text."""
    if text.strip() in ("null", "Null", "NULL", "~"):
        return None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # such as [::]:8001
            return text
    return text


def _set_value(into: dict[str, Any], place: tuple[str, ...], value: Any, variable: str) -> None:
    *above, last = place
    for name in above:
        into = into.setdefault(name, {})
        if not isinstance(into, dict):
            raise ConfigError(f"{variable}: another variable says what '{name}' is as a whole: keep one of them")
    into[last] = value
