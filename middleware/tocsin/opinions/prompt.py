"""Prompts: a text in which names in braces are filled in."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from tocsin.errors import ConfigError

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class Prompt:
    """A text with placeholders such as `{answer}`. Braces around anything but a name stay as they are, and what is
    filled in is never looked at for placeholders.

        >>> Prompt("Q: {question} A: {answer}").fill(question="2 + 2?", answer="{question}")
        'Q: 2 + 2? A: {question}'
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = frozenset(_PLACEHOLDER.findall(text))

    def fill(self, **values: object) -> str:
        """The text with every placeholder filled in. Raises KeyError for one without a value."""
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), self.text)


def read_prompt(path: Path | None, default: str, required: Collection[str], optional: Collection[str] = ()) -> Prompt:
    """The prompt of a file, or `default` where there is none. Raises ConfigError: the file cannot be read, or has a
    placeholder that is not filled in, or lacks one that must be there.
    """
    if path is None:
        return Prompt(default)
    prompt = Prompt(read_text(path))
    known_names = [*required, *optional]
    if strange := sorted(prompt.names - set(known_names)):
        listed = ", ".join(f"{{{name}}}" for name in known_names)
        raise ConfigError(f"{path}: {{{strange[0]}}} is not filled in (there are: {listed})")
    if missing := [name for name in required if name not in prompt.names]:
        raise ConfigError(f"{path}: the prompt must say where {{{missing[0]}}} goes")
    return prompt


def read_text(path: Path) -> str:
    """The text of a file. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
