"""A configuration of Envoy's as it was written, with the line of every key.

Keys are those of protobuf's text in snake case: what `egctl` and others print in camel case is the same to Envoy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tocsin.errors import ConfigError

_CAMEL = re.compile(r"[a-z]+([A-Z][a-z0-9]*)+")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_DEPTH = 120


class Block(dict[str, Any]):
    """A mapping. `lines` has the line, from 1, of each key, `line` that of the mapping itself."""

    def __init__(self, line: int = 0) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}

    def line_of(self, key: str) -> int:
        """The line of a key, of the mapping where it has no such key."""
        return self.lines.get(key, self.line)


def read(text: str, name: str) -> Block:
    """The mapping that a file of YAML or JSON is. Raises ConfigError where it is none."""
    try:
        node = yaml.compose(text, Loader=_LOADER)
        content = None if node is None else _value(node, 0)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: is no YAML: {error}") from None
    if not isinstance(content, Block):
        raise ConfigError(f"{name}: expected a configuration of Envoy: a mapping with static_resources or configs")
    return content


def block(value: Any) -> Block:
    """A mapping, an empty one in place of anything else."""
    return value if isinstance(value, Block) else Block()


def blocks(value: Any) -> Iterator[Block]:
    """The mappings of a list."""
    for item in value if isinstance(value, list) else ():
        if isinstance(item, Block):
            yield item


def at(root: Any, *keys: str) -> Any:
    """What stands below these keys, None where one is missing."""
    for key in keys:
        if not isinstance(root, Block):
            return None
        root = root.get(key)
    return root


def _value(node: yaml.Node, depth: int) -> Any:
    """A node as Python's values, whose mappings know the line of each key."""
    if depth > MOST_DEPTH:
        raise yaml.YAMLError("it is nested too deeply")
    if isinstance(node, yaml.MappingNode):
        mapping = Block(node.start_mark.line + 1)
        for key, value in node.value:
            name = _key(str(key.value))
            mapping[name] = _value(value, depth + 1)
            mapping.lines[name] = key.start_mark.line + 1
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, depth + 1) for item in node.value]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    """A scalar as its tag says; numbers of other kinds stay text."""
    text = str(node.value)
    if node.tag.endswith(":bool"):
        return text.lower() in ("true", "yes", "on")
    if node.tag.endswith(":null"):
        return None
    if node.tag.endswith(":int"):
        try:
            return int(text)
        except ValueError:
            return text
    return text


def _key(name: str) -> str:
    if _CAMEL.fullmatch(name):
        return re.sub("[A-Z]", lambda letter: "_" + letter.group().lower(), name)
    return name
