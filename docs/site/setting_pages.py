"""The reference of every setting, from the configuration's own models; examples are those of every_setting.yaml."""

from __future__ import annotations

import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import Url

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.protocols.paths import SignalPath

EXAMPLES = Path(__file__).with_name("every_setting.yaml")
_KEYS = {  # what stands for the key of a mapping, by the path of the mapping
    "protocols": "PROTOCOL", "protocols.PROTOCOL.methods": "METHOD", "protocols.PROTOCOL.tensors": "TYPE",
    "models": "MODEL", "models.MODEL.on_alarm": "SEVERITY",
    "models.MODEL.second_opinion.opinions": "OPINION", "models.MODEL.second_opinion.opinions.OPINION.of": "PART",
}  # fmt: skip
_NAMES: dict[Any, str] = {
    Address: "`HOST:PORT` or `unix:/PATH`", timedelta: "time", ByteSize: "bytes", Path: "path", Url: "URL",
    bool: "boolean", int: "integer", float: "number", str: "text", SignalPath: "path of a field", Any: "any value",
    type(None): "`null`",
}  # fmt: skip
_HEADINGS = {
    "": "The relay", "models": "Models: `models.MODEL`", "protocols": "Protocols of your own: `protocols.PROTOCOL`",
    "listeners": "Further ports: `listeners`", "events": "Alarms as events: `events`",
    "opentelemetry": "OpenTelemetry: `opentelemetry`", "state": "Shared state: `state`",
    "record": "Recording while serving: `record`", "limits": "Limits: `limits`",
}  # fmt: skip
_HEAD = "| key | type | default | example | meaning |", "|---|---|---|---|---|"
_LONGEST = 100  # characters of an example
_INTRODUCTION = """---
hide: [toc]
---

# Every setting

Generated from the configuration's schema. [Configuration](../configuration.md) explains what belongs together; this
page lists each key with its type, its default and an example. A *time* is a number with its unit (`us`, `ms`, `s`, `m`,
`h`); *bytes* are a number with a unit such as `KiB` or `MiB`. Paths of files are relative to the configuration file.
Names in capitals (`MODEL`, `METHOD`) stand for a name of yours; `[]` stands for each entry of a list.
"""


class Setting(NamedTuple):
    """One key: its path, and the model's field behind it."""

    path: str
    field: FieldInfo


def settings(model: type[BaseModel] = Config, above: str = "") -> Iterator[Setting]:
    """Every key of a model, and below each key those of the models that it holds; models in a list are entered once."""
    for name, field in model.model_fields.items():
        path = f"{above}.{name}" if above else name
        yield Setting(path, field)
        for inner, suffix in _models(field.annotation, path):
            yield from settings(inner, path + suffix)


def examples() -> dict[str, Any]:
    """An example of each key by its path, from the documents of every_setting.yaml; the first one counts."""
    collected: dict[str, Any] = {}
    for document in documents():
        _collect(document, "", collected)
    return collected


def documents() -> list[Any]:
    """The configurations of every_setting.yaml: each is valid, together they have every key."""
    return list(yaml.safe_load_all(EXAMPLES.read_text("utf-8")))


def page() -> str:
    """The page, in Markdown."""
    shown = examples()
    lines = [_INTRODUCTION]
    section = None
    rows = sorted(settings(), key=lambda setting: list(_HEADINGS).index(_section(setting.path)))
    for path, field in rows:
        if _section(path) != section:
            section = _section(path)
            lines += ["", f"## {_HEADINGS[section]}", "", *_HEAD]
        cells = (
            f"`{path}`",
            type_name(field.annotation),
            _default(field),
            _example(shown[path]),
            field.description or "",
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def type_name(annotation: Any) -> str:
    """The type of a setting, for people."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in inner))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is list:
        return f"list of {type_name(inner[0])}"
    if origin is dict:
        return f"{type_name(inner[1])}, by name"
    return "settings"


def _section(path: str) -> str:
    first = path.partition(".")[0].removesuffix("[]")
    return first if first in _HEADINGS else ""


def _models(annotation: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    origin = get_origin(annotation)
    if origin is dict:
        for inner, _ in _models(get_args(annotation)[1], path):
            yield inner, f".{_KEYS[path]}"
    elif origin is list:
        for inner, _ in _models(get_args(annotation)[0], path):
            yield inner, "[]"
    elif origin in (Annotated, Union, types.UnionType):
        for part in get_args(annotation):
            yield from _models(part, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""


def _collect(value: Any, path: str, collected: dict[str, Any]) -> None:
    if path:
        collected.setdefault(path, value)
    if isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict):
                _collect_keys(entry, f"{path}[]", collected)
    elif isinstance(value, dict):
        _collect_keys(value, path, collected)


def _collect_keys(content: dict[str, Any], path: str, collected: dict[str, Any]) -> None:
    for key, value in content.items():
        name = _KEYS.get(path, key)
        _collect(value, f"{path}.{name}" if path else name, collected)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its own defaults"
    if isinstance(value, timedelta):
        return f"`{_time(value.total_seconds())}`"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable(separator='').replace('.0', '')}`"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    return f"`{value}`" if str(value) else "empty"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms"


def _example(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False).removesuffix("...\n").strip()
    return f"`{text}`" if len(text) <= _LONGEST else "see the keys below it"
