"""Reads the configuration's file: YAML in which no key may occur twice."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tocsin.errors import ConfigError

MERGE = "tag:yaml.org,2002:merge"  # the key <<, whose entries a mapping's own may override


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML's own loader uses the last without a warning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in lines:
                raise _DuplicateKey(f"'{key}' stands twice, in lines {lines[key]} and {line}: keep one of them")
            if isinstance(key, Hashable):
                lines[key] = line
        return super().construct_mapping(node, deep)


class _DuplicateKey(Exception):
    """A mapping that has a key twice; the text names both lines."""


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML file. Raises ConfigError naming the file, and where it can, the line."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except _DuplicateKey as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as a date that no calendar has
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold settings by name (listen, upstream, models, ...)")
    strange = [name for name in content if not isinstance(name, str)]
    if strange:
        raise ConfigError(f"{path}: {strange[0]!r}: there is no such setting; `tocsin config schema` lists them")
    return content
